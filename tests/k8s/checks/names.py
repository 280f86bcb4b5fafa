"""Names, labels and keys, which schemas take as any string."""

import re
from collections import Counter
from collections.abc import Iterator

from tests.k8s.objects import Cluster, title, walk

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035, which every kind takes
PORT = re.compile(r"(?=.{1,15}$)(?!.*--)[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 6335
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
LABEL = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?" + VALUE.pattern.removesuffix("?"))
LISTS = ("env", "ports", "volumes", "containers")


def names_are_valid(cluster: Cluster) -> Iterator[str]:
    """Of objects, and of what has a name inside them."""
    for item in cluster.objects:
        for path, holder in walk(item):
            rule = {"env": VARIABLE, "ports": PORT}.get(re.sub(r".*\.|\[\d+\]", "", path), NAME)
            if "name" in holder and not rule.fullmatch(holder["name"]):
                yield f"{title(item)}: {path}: {holder['name']!r} is no valid name"
        for key in item.get("data", {}):
            if not KEY.fullmatch(key):
                yield f"{title(item)}: data: {key!r} is no valid key"


def names_are_unique(cluster: Cluster) -> Iterator[str]:
    """Containers, volumes and ports of a pod, variables of a container, ports of a Service."""
    for item in cluster.objects:
        for path, holder in walk(item):
            parts = {field: holder.get(field, []) for field in LISTS}
            parts["containers"] = parts["containers"] + holder.get("initContainers", [])
            for field, named in parts.items():
                counts = Counter(part["name"] for part in named if "name" in part)
                for name in (name for name, count in counts.items() if count > 1):
                    yield f"{title(item)}: {path}.{field}: {name!r} is there twice"


def labels_are_valid(cluster: Cluster) -> Iterator[str]:
    """Keys and values."""
    for item in cluster.objects:
        for path, holder in walk(item):
            for key, value in holder.get("labels", {}).items():
                if not LABEL.fullmatch(key):
                    yield f"{title(item)}: {path}.labels: {key!r} is no valid key"
                if not (isinstance(value, str) and VALUE.fullmatch(value)):
                    yield f"{title(item)}: {path}.labels: {value!r} is no valid value"


def objects_share_a_namespace(cluster: Cluster) -> Iterator[str]:
    """The other checks take it for granted, and so do the names in them."""
    for item in cluster.objects:
        if item["kind"] != "Namespace" and item["metadata"].get("namespace") != "mergeline":
            yield f"{title(item)} is not in mergeline"


def no_service_is_called_vllm(cluster: Cluster) -> Iterator[str]:
    """Its links would set VLLM_PORT in every pod, which the engine reads as its own setting."""
    if cluster.named("Service", "vllm"):
        yield "Service/vllm: pods would get VLLM_PORT from it"
