"""What the manifests say to our programs is what the programs know."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from service.settings import Settings
from tests.k8s.checks.serving import image_name, mount_of, serving
from tests.k8s.objects import Objects, environment, of_kind, pods, title
from tests.paths import ROOT

PREFIX = "SERVICE_"


def settings_are_real(objects: Objects) -> list[str]:
    """Every SERVICE_ variable is a setting and can be read as one; the service ignores others."""
    found = []
    for where, name, value in _variables(objects):
        if not name.startswith(PREFIX):
            continue
        field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
        if field is None or name != name.upper():
            found.append(f"{where}: {name} is no setting of the service")
        elif isinstance(value, str) and "$(" not in value:
            found += [f"{where}: {name}={value}: {words}" for words in _misread(field, value)]
    return found


def _variables(objects: Objects) -> Iterator[tuple[str, str, object]]:
    for item in of_kind(objects, "ConfigMap"):
        for name, value in (item.get("data") or {}).items():
            yield title(item), name, value
    for pod in pods(objects):
        for container in pod.all_containers:
            for variable in container.get("env") or []:
                yield f"{pod.called(container)} env", variable["name"], variable.get("value")


def _misread(field: Any, value: str) -> list[str]:
    wanted: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, *field.metadata, None])
    is_json = "dict" in str(field.annotation)
    try:
        wanted.validate_json(value) if is_json else wanted.validate_python(value)
    except ValidationError as error:
        return [details["msg"] for details in error.errors()]
    return []


def flags_are_real(objects: Objects) -> list[str]:
    """The service's own flags, where a manifest gives any."""
    return [
        f"{pod.called(container)} args: {flag} is no flag of the service"
        for pod, container in serving(objects)
        for argument in [*(container.get("command") or []), *(container.get("args") or [])]
        for flag in re.findall(r"^--[^=]+", str(argument))
        if flag.removeprefix("--").replace("-", "_") not in Settings.model_fields
    ]


def setting_files_are_mounted(objects: Objects, known: Objects) -> list[str]:
    """The files that settings name lie on a volume."""
    return [
        f"{pod.called(container)}: no volumeMount holds {name}={value}"
        for pod, container in serving(objects)
        for name, value in environment(pod, container, [*objects, *known]).items()
        if name.startswith(PREFIX) and name.endswith("_FILE") and value
        if mount_of(container, value) is None
    ]


def images_are_ours(objects: Objects) -> list[str]:
    """Each image is one that compose builds, with a tag that does not move by itself."""
    found = []
    for pod in pods(objects):
        for container in pod.all_containers:
            image = str(container["image"])
            if image_name(container) not in _built():
                found.append(f"{pod.called(container)}: image {image} is none of ours")
            if not re.search(r":(?!latest$)[\w][\w.-]*$|@sha256:[0-9a-f]{64}$", image):
                found.append(f"{pod.called(container)}: image {image} has no tag of its own")
    return found


@cache
def _built() -> frozenset[str]:
    """Images that docker-compose.yml names and that have a target in the Dockerfile."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    return frozenset(
        image_name(service)
        for service in compose["services"].values()
        if image_name(service).removeprefix("mergeline-") in targets
    )
