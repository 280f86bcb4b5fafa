"""What the manifests say to our programs is what the programs know."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from service.settings import Settings
from tests.k8s.checks.serving import serving
from tests.k8s.objects import Cluster, title
from tests.paths import ROOT

PREFIX = "SERVICE_"


def settings_are_real(cluster: Cluster) -> Iterator[str]:
    """Every SERVICE_ variable is a setting and can be read as one; the service ignores others."""
    variables = [(title(item), item.get("data", {})) for item in cluster.of_kind("ConfigMap")] + [
        (container.title, container.environment) for container in cluster.containers
    ]
    for where, values in variables:
        for name, value in values.items():
            field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
            if name.startswith(PREFIX) and field is None:
                yield f"{where}: {name} is no setting of the service"
            elif name.startswith(PREFIX) and value is not None and "$(" not in value:
                yield from (f"{where}: {name}={value}: {words}" for words in _misread(field, value))


def _misread(field: Any, value: str) -> list[str]:
    setting: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, *field.metadata, None])
    is_json = "dict" in str(field.annotation)
    try:
        setting.validate_json(value) if is_json else setting.validate_python(value)
    except ValidationError as error:
        return [details["msg"] for details in error.errors()]
    return []


def flags_are_real(cluster: Cluster) -> Iterator[str]:
    """The service's own flags, where a manifest gives any."""
    for _, container in serving(cluster):
        for flag in re.findall(r"(?:^| )--([^= ]+)", " ".join(container.command)):
            if flag.replace("-", "_") not in Settings.model_fields:
                yield f"{container.title}: --{flag} is no flag of the service"


def images_are_ours(cluster: Cluster) -> Iterator[str]:
    """Each image is one that compose builds from a target of the Dockerfile."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    built = {service["image"].partition(":")[0] for service in compose["services"].values()}
    targets = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    for container in cluster.containers:
        if container.image not in built & {f"mergeline-{target}" for target in targets}:
            yield f"{container.title}: image {container.spec['image']} is none of ours"
