"""Names, labels and keys, which schemas take as any string."""

import re
from collections.abc import Iterator

from tests.k8s.objects import Object, Objects, Pod, of_kind, pods, title

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123
OLD_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035: begins with a letter
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
PORT = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")  # RFC 6335
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")

BEGIN_WITH_LETTER = {"Service", "LeaderWorkerSet"}  # an LWS makes a Service of its name
# their names become host names or labels of pods
ONE_LABEL = {"Namespace", "StatefulSet", "Job", "DaemonSet", "Deployment"}


def names_are_valid(objects: Objects) -> list[str]:
    """Objects, and what has a name inside a pod."""
    found = []
    for item in objects:
        name, kind = item["metadata"]["name"], item["kind"]
        if kind in BEGIN_WITH_LETTER:
            valid = OLD_LABEL.fullmatch(name)
        elif kind in ONE_LABEL:
            valid = LABEL.fullmatch(name)
        else:
            valid = SUBDOMAIN.fullmatch(name) if len(name) <= 253 else None
        if not valid:
            found.append(f"{title(item)}: metadata.name is no valid name for its kind")
    for where, rule, name in _inner_names(objects):
        if not rule.fullmatch(str(name)):
            found.append(f"{where}: {name!r} is no valid name")
    return found


def _inner_names(objects: Objects) -> Iterator[tuple[str, re.Pattern[str], str]]:
    for pod in pods(objects):
        yield from _names_in(pod)
    for service in of_kind(objects, "Service"):
        for port in service["spec"].get("ports") or []:
            yield f"{title(service)} ports", LABEL, port.get("name", "unnamed")
    for item in of_kind(objects, "ConfigMap", "Secret"):
        for part in ("data", "binaryData", "stringData"):
            for key in item.get(part) or {}:
                yield f"{title(item)} {part}", KEY, key


def _names_in(pod: Pod) -> Iterator[tuple[str, re.Pattern[str], str]]:
    for volume in pod.spec.get("volumes") or []:
        yield f"{pod.title} volumes", LABEL, volume["name"]
    for container in pod.all_containers:
        yield f"{pod.title} containers", LABEL, container["name"]
        for port in container.get("ports") or []:
            yield f"{pod.called(container)} ports", PORT, port.get("name", "unnamed")
        for variable in container.get("env") or []:
            yield f"{pod.called(container)} env", VARIABLE, variable["name"]


def names_are_unique(objects: Objects) -> list[str]:
    """Containers and volumes of a pod, variables of a container, ports of a Service."""
    groups: list[tuple[str, list[str]]] = []
    for pod in pods(objects):
        groups.append((f"{pod.title} containers", [c["name"] for c in pod.all_containers]))
        groups.append((f"{pod.title} volumes", [v["name"] for v in pod.spec.get("volumes") or []]))
        groups.append((f"{pod.title} ports", [p["name"] for p in pod.ports if "name" in p]))
        for container in pod.all_containers:
            names = [variable["name"] for variable in container.get("env") or []]
            groups.append((f"{pod.called(container)} env", names))
    for service in of_kind(objects, "Service"):
        names = [port.get("name", "") for port in service["spec"].get("ports") or []]
        groups.append((f"{title(service)} ports", names))
    return [
        f"{where}: {name!r} is there twice"
        for where, names in groups
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def labels_are_valid(objects: Objects) -> list[str]:
    """Keys and values of labels, keys of annotations, on objects and on pods."""
    found = []
    for where, field, values in _labels(objects):
        for key, value in values.items():
            prefix, _, name = str(key).rpartition("/")
            if not QUALIFIED.fullmatch(name) or (prefix and not SUBDOMAIN.fullmatch(prefix)):
                found.append(f"{where} {field}: {key!r} is no valid key")
            if not isinstance(value, str):
                found.append(f"{where} {field}: {key}: {value!r} is no string")
            elif field == "labels" and value and not QUALIFIED.fullmatch(value):
                found.append(f"{where} {field}: {key}: {value!r} is no valid value")
    return found


def _labels(objects: Objects) -> Iterator[tuple[str, str, Object]]:
    for item in objects:
        for field in ("labels", "annotations"):
            yield title(item), field, item["metadata"].get(field) or {}
    for pod in pods(objects):
        yield f"{pod.title} pod", "labels", pod.labels


def no_service_is_called_vllm(objects: Objects) -> list[str]:
    """Its links would set VLLM_PORT in every pod, which the engine reads as its own setting."""
    return [
        f"{title(service)}: metadata.name: pods would get VLLM_PORT from it"
        for service in of_kind(objects, "Service")
        if service["metadata"]["name"] == "vllm"
    ]
