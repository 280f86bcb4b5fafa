"""The objects of a rendering, and the pods and containers that they make."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Configs = Mapping[str, Mapping[str, str]]  # the data of ConfigMaps, by their names

VARIABLE = re.compile(r"\$\((\w+)\)")


def title(item: Object) -> str:
    """How a problem names an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def walk(item: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every mapping in it, itself first, each with its path."""
    if isinstance(item, dict):
        yield path, item
        for key, value in item.items():
            yield from walk(value, f"{path}.{key}")
    elif isinstance(item, list):
        for index, value in enumerate(item):
            yield from walk(value, f"{path}[{index}]")


def matches(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """A label selector as Kubernetes reads it: none matches nothing, an empty one everything."""
    return (
        selector is not None
        and all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        and all(
            each["operator"] == "In" and labels.get(each["key"]) in each["values"]
            for each in selector.get("matchExpressions", [])
        )
    )


@dataclass(frozen=True)
class Container:
    """One of a pod, with the ConfigMaps that it may read."""

    title: str
    spec: Object
    configs: Configs

    def parts(self, field: str) -> list[Object]:
        """A list of its specification, empty where it is left out."""
        return list(self.spec.get(field, []))

    def resources(self, side: str) -> Object:
        """Its requests or its limits."""
        return dict(self.spec.get("resources", {}).get(side, {}))

    @property
    def image(self) -> str:
        """Without registry and tag."""
        return re.split("[:@]", self.spec["image"].rpartition("/")[2])[0]

    @property
    def ports(self) -> dict[str, int]:
        """What it says that it listens on."""
        return {port["name"]: port["containerPort"] for port in self.parts("ports")}

    @property
    def configured(self) -> dict[str, str]:
        """The variables from ConfigMaps."""
        names = [each["configMapRef"]["name"] for each in self.parts("envFrom")]
        return {key: value for name in names for key, value in self.configs.get(name, {}).items()}

    @property
    def environment(self) -> dict[str, str | None]:
        """All variables; None for a value that only the cluster knows."""
        return self.configured | {each["name"]: each.get("value") for each in self.parts("env")}

    @property
    def command(self) -> list[str]:
        """Command and arguments as they are written."""
        return [*self.spec.get("command", []), *self.spec.get("args", [])]

    @property
    def words(self) -> list[str]:
        """Command and arguments as the program gets them: $(NAME) is replaced where it is known."""
        known = self.environment
        return [VARIABLE.sub(lambda name: known.get(name[1]) or name[0], w) for w in self.command]

    def target_of(self, probe: str) -> Object:
        """Where a probe's HTTP request goes; empty where there is none."""
        return dict(self.spec.get(probe, {}).get("httpGet", {}))

    def mount_of(self, path: str) -> Object | None:
        """The mount that a path lies on."""
        mounts = self.parts("volumeMounts")
        holding = [m for m in mounts if f"{path}/".startswith(m["mountPath"].rstrip("/") + "/")]
        return max(holding, key=lambda mount: len(mount["mountPath"]), default=None)


@dataclass(frozen=True)
class Pod:
    """A pod as its owner would make it."""

    title: str
    owner: Object
    labels: Mapping[str, str]
    spec: Object
    containers: list[Container]  # those that keep running; not the init containers
    all_containers: list[Container]

    @property
    def volumes(self) -> dict[str, Object]:
        """By their names."""
        return {volume["name"]: volume for volume in self.spec.get("volumes", [])}

    @property
    def gpus(self) -> int:
        """How many it takes."""
        return sum(int(c.resources("limits").get("nvidia.com/gpu", 0)) for c in self.containers)

    def number(self, port: int | str) -> int | None:
        """Of a port that one of its containers declares, by its name or number."""
        ports = [pair for container in self.containers for pair in container.ports.items()]
        return next((number for name, number in ports if port in (name, number)), None)


class Cluster:
    """All objects of a namespace, and their pods."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects
        configs = {c["metadata"]["name"]: c.get("data", {}) for c in self.of_kind("ConfigMap")}
        # whatever has containers is the specification of a pod
        self.pods = [
            _pod(item, path, template, configs)
            for item in objects
            for path, template in walk(item)
            if "containers" in template.get("spec", ())
        ]
        self.containers = [container for pod in self.pods for container in pod.all_containers]

    def of_kind(self, *kinds: str) -> list[Object]:
        """Those of these kinds."""
        return [item for item in self.objects if item["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object | None:
        """The object of that name."""
        return next((i for i in self.of_kind(kind) if i["metadata"]["name"] == name), None)

    def select(self, selector: Object | None) -> list[Pod]:
        """The pods that a label selector matches."""
        return [pod for pod in self.pods if matches(selector, pod.labels)]

    def behind(self, service: Object) -> list[Pod]:
        """The pods of a Service."""
        return self.select({"matchLabels": service["spec"]["selector"]})


def _pod(owner: Object, path: str, template: Object, configs: Configs) -> Pod:
    spec, role = template["spec"], re.findall(r"(leader|worker)Template$", path)
    name = " ".join([title(owner), *role])
    first, running = (
        [
            Container(f"{name} container {each['name']}", each, configs)
            for each in spec.get(field, [])
        ]
        for field in ("initContainers", "containers")
    )
    labels = template.get("metadata", {}).get("labels", {})
    return Pod(name, owner, labels, spec, running, first + running)
