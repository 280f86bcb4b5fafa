"""Changes that break a manifest: the way to a place in it, and the value to put there."""

from collections.abc import Sequence
from typing import Any

from tests.k8s.objects import Object, title

GONE = object()  # in place of a value: what is at the place is taken away
POD = "Deployment/serve spec template spec"
SERVE = f"{POD} containers serve"
VERIFY = f"{POD} initContainers verify"
BALANCER = "Deployment/balancer spec template spec"


def change(objects: Sequence[Object], place: str, value: object) -> Object:
    """The changed object. A place: an object, then keys, indices and names."""
    name, *steps, last = place.split()
    exact = [item for item in objects if title(item) == name]
    # generated names end in a hash
    changed = (exact or [item for item in objects if title(item).startswith(f"{name}-")])[0]
    item: Any = changed
    for step in steps:
        item = item[_key(item, step)]
    if value is GONE:
        del item[_key(item, last)]
    else:
        item[_key(item, last)] = value
    return changed


def _key(item: Any, step: str) -> str | int:
    if isinstance(item, dict):
        return step
    return int(step) if step.isdigit() else [part.get("name") for part in item].index(step)
