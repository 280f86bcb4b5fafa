"""The objects of a rendering, and the pods that they make."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Objects = Sequence[Object]

TEMPLATES = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}
VARIABLE = re.compile(r"\$\((\w+)\)")
LEADER_WORKER = "leaderworkerset.sigs.k8s.io"


@dataclass(frozen=True)
class Pod:
    """A pod as its owner would make it, with the labels that the owner's controller adds."""

    title: str
    owner: Object
    labels: dict[str, str]
    spec: Object

    @property
    def namespace(self) -> str:
        """Where it runs."""
        return namespace(self.owner)

    @property
    def containers(self) -> list[Object]:
        """Those that keep running; not the init containers."""
        return list(self.spec.get("containers") or [])

    @property
    def all_containers(self) -> list[Object]:
        """Init containers, too."""
        return [*(self.spec.get("initContainers") or []), *self.containers]

    @property
    def ports(self) -> list[Object]:
        """What its containers say they listen on."""
        return [port for container in self.containers for port in container.get("ports") or []]

    def called(self, container: Object) -> str:
        """How a problem names a container."""
        return f"{self.title} container {container.get('name')}"


def title(item: Object) -> str:
    """How a problem names an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def namespace(item: Object) -> str:
    """Empty when the manifest leaves it to whoever applies it."""
    return str(item["metadata"].get("namespace", ""))


def of_kind(objects: Objects, *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: Objects, kind: str, name: str, where: str) -> Object | None:
    """The object of that name in a namespace."""
    for item in of_kind(objects, kind):
        if item["metadata"]["name"] == name and namespace(item) == where:
            return item
    return None


def pods(objects: Objects) -> list[Pod]:
    """Every pod template among the objects."""
    return [pod for item in objects for pod in _pods_of(item)]


def _pods_of(item: Object) -> Iterator[Pod]:
    kind, name, spec = item["kind"], title(item), item.get("spec") or {}
    if kind == "Pod":
        yield Pod(name, item, item["metadata"].get("labels") or {}, spec)
    elif kind in TEMPLATES:
        yield _pod(name, item, spec["template"])
    elif kind == "CronJob":
        yield _pod(name, item, spec["jobTemplate"]["spec"]["template"])
    elif kind == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        # without a template of its own, the leader is made from the workers'
        leader = group.get("leaderTemplate") or group["workerTemplate"]
        yield _pod(f"{name} leader", item, leader, {f"{LEADER_WORKER}/worker-index": "0"})
        yield _pod(f"{name} worker", item, group["workerTemplate"])


def _pod(name: str, owner: Object, template: Object, added: dict[str, str] | None = None) -> Pod:
    labels = dict((template.get("metadata") or {}).get("labels") or {}) | (added or {})
    of_owner = owner["metadata"]["name"]
    if owner["kind"] == "Job":
        labels |= {"job-name": of_owner, "batch.kubernetes.io/job-name": of_owner}
    if owner["kind"] == "LeaderWorkerSet":
        labels[f"{LEADER_WORKER}/name"] = of_owner
    return Pod(name, owner, labels, template["spec"])


def environment(pod: Pod, container: Object, objects: Objects) -> dict[str, str | None]:
    """The variables of a container; None for a value that only the cluster knows."""
    found: dict[str, str | None] = {}
    for source in container.get("envFrom") or []:
        if wanted := source.get("configMapRef"):
            data = _data(objects, wanted["name"], pod.namespace)
            found |= {source.get("prefix", "") + key: value for key, value in data.items()}
    for variable in container.get("env") or []:
        value = variable.get("value")
        if wanted := (variable.get("valueFrom") or {}).get("configMapKeyRef"):
            value = _data(objects, wanted["name"], pod.namespace).get(wanted["key"])
        found[variable["name"]] = value
    return found


def _data(objects: Objects, name: str, where: str) -> dict[str, str]:
    return (named(objects, "ConfigMap", name, where) or {}).get("data") or {}


def words(pod: Pod, container: Object, objects: Objects) -> list[str]:
    """Command and arguments as the container gets them: $(NAME) is replaced where it is known."""
    known = environment(pod, container, objects)
    written = [*(container.get("command") or []), *(container.get("args") or [])]
    return [
        VARIABLE.sub(lambda match: known.get(match[1]) or match[0], str(word)) for word in written
    ]
