"""Amounts of memory, processors, storage and devices, in Kubernetes' grammar."""

import re
from collections.abc import Iterator
from decimal import Decimal

from tests.k8s.objects import Object, Objects, Pod, of_kind, pods, title

NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<digits>\d+\.?\d*|\.\d+)"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?\d+))?"
)
POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
NATIVE = {"cpu", "memory", "ephemeral-storage", "storage"}


def parse(quantity: object) -> Decimal | None:
    """The amount in its base unit; None for what Kubernetes does not take as a quantity."""
    if isinstance(quantity, bool) or not (match := NUMBER.fullmatch(str(quantity))):
        return None
    amount = Decimal(match["sign"] + match["digits"])
    suffix = match["suffix"] or ""
    if suffix.endswith("i"):
        return amount * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    return amount * Decimal(10) ** POWERS.get(suffix, int(match["exponent"] or 0))


def quantities_are_well_formed(objects: Objects) -> list[str]:
    """Every quantity parses, is not negative, and is no finer than what it counts."""
    found = []
    for where, resource, quantity in _quantities(objects):
        amount = parse(quantity)
        if amount is None:
            found.append(f"{where}: {quantity!r} is no quantity")
        elif amount < 0:
            found.append(f"{where}: {quantity} is negative")
        elif amount % (Decimal("0.001") if resource == "cpu" else 1):
            found.append(f"{where}: {quantity} is finer than {resource} can be counted")
    return found


def _quantities(objects: Objects) -> Iterator[tuple[str, str, object]]:
    for pod in pods(objects):
        for container in pod.all_containers:
            for side in ("requests", "limits"):
                for resource, amount in _amounts(container, side).items():
                    yield f"{pod.called(container)} {side}.{resource}", resource, amount
        for volume in pod.spec.get("volumes") or []:
            empty = volume.get("emptyDir") or {}
            if "sizeLimit" in empty:
                where = f"{pod.title} volume {volume['name']} emptyDir.sizeLimit"
                yield where, "storage", empty["sizeLimit"]
    for where, claim in _claims(objects):
        for side in ("requests", "limits"):
            for resource, amount in _amounts(claim, side).items():
                yield f"{where} {side}.{resource}", resource, amount


def _claims(objects: Objects) -> Iterator[tuple[str, Object]]:
    for claim in of_kind(objects, "PersistentVolumeClaim"):
        yield title(claim), claim["spec"]
    for item in of_kind(objects, "StatefulSet"):
        for claim in item["spec"].get("volumeClaimTemplates") or []:
            yield f"{title(item)} claim {claim['metadata']['name']}", claim["spec"]
    for pod in pods(objects):
        for volume in pod.spec.get("volumes") or []:
            if template := (volume.get("ephemeral") or {}).get("volumeClaimTemplate"):
                yield f"{pod.title} volume {volume['name']}", template["spec"]


def _amounts(holder: Object, side: str) -> Object:
    return (holder.get("resources") or {}).get(side) or {}


def requests_fit_limits(objects: Objects) -> list[str]:
    """No request is above its limit; devices cannot be overcommitted: there they are equal."""
    found = []
    for pod in pods(objects):
        for container in pod.all_containers:
            requests, limits = _amounts(container, "requests"), _amounts(container, "limits")
            for resource, request in requests.items():
                asked, most = parse(request), parse(limits.get(resource))
                where = f"{pod.called(container)} requests.{resource} {request}"
                limit = limits.get(resource, "none")
                if resource not in NATIVE and asked != most:
                    found.append(f"{where}: a device's limit must be the same, it is {limit}")
                elif asked is not None and most is not None and asked > most:
                    found.append(f"{where}: is above the limit {limit}")
    return found


def memory_volumes_fit_the_limit(objects: Objects) -> list[str]:
    """What is written to a memory-backed volume counts as the memory of who writes it."""
    found = []
    for pod in pods(objects):
        sizes = memory_volumes(pod)
        found += [
            f"{pod.title} volume {name}: a memory-backed emptyDir needs a sizeLimit"
            for name, size in sizes.items()
            if size is None
        ]
        for container in pod.all_containers:
            mounted = {mount["name"] for mount in container.get("volumeMounts") or []}
            size = sum((sizes[name] or Decimal(0) for name in mounted & {*sizes}), Decimal(0))
            limit = parse(_amounts(container, "limits").get("memory"))
            if size and (limit is None or size >= limit):
                found.append(
                    f"{pod.called(container)} limits.memory: no room beside {size} bytes of "
                    "memory-backed volumes"
                )
    return found


def memory_volumes(pod: Pod) -> dict[str, Decimal | None]:
    """Names and sizes of the memory-backed volumes of a pod."""
    return {
        volume["name"]: parse(volume["emptyDir"].get("sizeLimit"))
        for volume in pod.spec.get("volumes") or []
        if (volume.get("emptyDir") or {}).get("medium") == "Memory"
    }
