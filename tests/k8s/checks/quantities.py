"""Amounts of memory, processors, storage and devices."""

import re
from collections.abc import Iterator

from tests.k8s.objects import Cluster, Pod, title, walk

# no signs and no exponents: nobody needs them here
UNITS = {
    **{"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
}
QUANTITY = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(UNITS)})")


def amount(quantity: object) -> float:
    """In its base unit; for what is no quantity NaN, which is above and below nothing."""
    match = QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * UNITS[match[2]] if match else float("nan")


def quantities_are_well_formed(cluster: Cluster) -> Iterator[str]:
    """Schemas take any string. Only processors are counted in thousandths."""
    for item in cluster.objects:
        for path, holder in walk(item):
            resources = path.endswith((".requests", ".limits"))
            for name, quantity in holder.items():
                if (resources or name == "sizeLimit") and not _is_countable(name, quantity):
                    yield f"{title(item)}: {path}.{name}: {quantity!r} is no quantity of it"


def _is_countable(name: str, quantity: object) -> bool:
    return amount(quantity) >= 0 if name == "cpu" else amount(quantity) % 1 == 0


def requests_fit_limits(cluster: Cluster) -> Iterator[str]:
    """No request is above its limit; devices cannot be overcommitted: there they are equal."""
    for container in cluster.containers:
        for name, request in container.resources("requests").items():
            limit = container.resources("limits").get(name)
            if ("/" in name and request != limit) or amount(request) > amount(limit):
                yield f"{container.title}: {name} {request} does not fit the limit {limit}"


def memory_volumes_fit_the_limit(cluster: Cluster) -> Iterator[str]:
    """What is written to a memory-backed volume counts as the memory of who writes it."""
    for pod in cluster.pods:
        sizes = memory_volumes(pod)
        for container in pod.all_containers:
            mounted = {mount["name"] for mount in container.parts("volumeMounts")}
            size = sum(sizes[name] for name in mounted & sizes.keys())
            limit = amount(container.resources("limits").get("memory"))
            if size != 0 and not size < limit:
                yield f"{container.title}: no room beside {size} bytes of memory-backed volumes"


def memory_volumes(pod: Pod) -> dict[str, float]:
    """Names and sizes of the memory-backed volumes of a pod; NaN without a limit."""
    return {
        name: amount(volume["emptyDir"].get("sizeLimit"))
        for name, volume in pod.volumes.items()
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
