"""The pods that serve: ports, probes, drain, model, scratch space, devices."""

import re
from collections.abc import Iterator
from typing import Any

from service.settings import Settings
from tests.k8s.checks.quantities import memory_volumes
from tests.k8s.checks.selectors import matches
from tests.k8s.checks.workloads import PROBES, gpus
from tests.k8s.objects import Object, Objects, Pod, environment, namespace, of_kind, pods, title
from tests.paths import ROOT

HAPROXY = ROOT / "docker" / "balancer" / "haproxy.cfg"
MARGIN_S = 10  # what ending takes besides waiting
LOADING_S = 600  # the least that a large model needs to load
WRITABLE = ("/tmp", "/home/mergeline", "/dev/shm")
ROUTES = {
    "startupProbe": {"/readyz", "/health"},
    "readinessProbe": {"/readyz", "/health"},
    "livenessProbe": {"/livez"},  # a replica that loads or drains is alive
}


def image_name(container: Object) -> str:
    """Without registry and tag."""
    return re.split("[:@]", str(container["image"]).rpartition("/")[2])[0]


def serving(objects: Objects) -> Iterator[tuple[Pod, Object]]:
    """The containers whose program is the service, which is what the engine's image runs."""
    for pod in pods(objects):
        for container in pod.containers:
            if image_name(container) == "mergeline-engine" and _runs_service(container):
                yield pod, container


def _runs_service(container: Object) -> bool:
    command = container.get("command")
    return command is None or re.search(r"-m,? service\b(?!\.)", " ".join(command)) is not None


def setting(pod: Pod, container: Object, present: Objects, name: str) -> Any:
    """A setting of the service as text, or its default."""
    value = environment(pod, container, present).get(f"SERVICE_{name.upper()}")
    return Settings.model_fields[name].default if value is None else value


def serving_pods_may_drain(objects: Objects, known: Objects) -> list[str]:
    """The grace period covers the hook, the drain and the end; who listens says so first."""
    present = [*objects, *known]
    found = []
    for pod, container in serving(objects):
        hook = _sleep(container)
        if hook is None or (hook == 0 and container.get("ports")):
            found.append(f"{pod.called(container)} lifecycle.preStop must sleep some seconds")
        drain = float(setting(pod, container, present, "drain_timeout_s"))
        found += _too_short(pod, hook or 0, drain)
    return found


def balancers_may_drain(objects: Objects) -> list[str]:
    """As the pods that serve, with HAProxy's own limit."""
    match = re.search(r"^\s*hard-stop-after (\d+)s$", HAPROXY.read_text("utf-8"), re.MULTILINE)
    if match is None:
        return [f"{HAPROXY.name} has no hard-stop-after in seconds"]
    return [
        problem
        for pod in pods(objects)
        for container in pod.containers
        if image_name(container) == "mergeline-balancer"
        for problem in _too_short(pod, _sleep(container) or 0, float(match[1]))
    ]


def _too_short(pod: Pod, hook: float, drain: float) -> list[str]:
    given = pod.spec.get("terminationGracePeriodSeconds", 30)
    needed = hook + drain + MARGIN_S
    if given >= needed:
        return []
    return [
        f"{pod.title}: terminationGracePeriodSeconds {given} is below {needed:g}: "
        f"{hook:g} of preStop, {drain:g} of drain, {MARGIN_S} to end"
    ]


def _sleep(container: Object) -> float | None:
    """Seconds that preStop sleeps; 0 without a hook, None for a hook that does other things."""
    match (container.get("lifecycle") or {}).get("preStop"):
        case None:
            return 0
        case {"exec": {"command": ["sleep", str(seconds)]}} if seconds.isdigit():
            return float(seconds)
        case {"sleep": {"seconds": int(seconds)}}:
            return float(seconds)
    return None


def serving_ports_agree(objects: Objects, known: Objects) -> list[str]:
    """SERVICE_PORT, the container's port, its probes' and its Services' are one."""
    present = [*objects, *known]
    found = []
    for pod, container in serving(objects):
        port = int(setting(pod, container, present, "port"))
        declared = container.get("ports") or []
        if not declared:
            continue  # it listens for nobody: a worker of several nodes
        numbers = {item.get("name"): item["containerPort"] for item in declared}
        if port not in numbers.values():
            found.append(f"{pod.called(container)}: SERVICE_PORT {port} is no containerPort of it")
        for probe in PROBES:
            asked = ((container.get(probe) or {}).get("httpGet") or {}).get("port", port)
            if numbers.get(asked, asked) != port:
                found.append(f"{pod.called(container)} {probe}: port {asked} is not {port}")
        for service in _services_of(pod, present):
            for target in service["spec"].get("ports") or []:
                asked = target.get("targetPort", target["port"])
                if numbers.get(asked, asked) != port:
                    found.append(f"{title(service)}: targetPort {asked} is not {port}")
        host = environment(pod, container, present).get("SERVICE_HOST")
        if host in {"127.0.0.1", "localhost"}:
            found.append(f"{pod.called(container)}: SERVICE_HOST {host} hears no other pod")
    return found


def _services_of(pod: Pod, present: Objects) -> list[Object]:
    return [
        service
        for service in of_kind(present, "Service")
        if namespace(service) == pod.namespace
        and service["spec"].get("selector")
        and matches({"matchLabels": service["spec"]["selector"]}, pod.labels)
    ]


def serving_probes_fit(objects: Objects) -> list[str]:
    """Each probe asks the route that answers it, and loading gets its time."""
    found = []
    for pod, container in serving(objects):
        if not container.get("ports"):
            continue
        for probe, routes in ROUTES.items():
            path = ((container.get(probe) or {}).get("httpGet") or {}).get("path")
            if path not in routes:
                found.append(f"{pod.called(container)} {probe}: asks {path}, not {min(routes)}")
        startup = container.get("startupProbe") or {}
        patience = startup.get("failureThreshold", 3) * startup.get("periodSeconds", 10)
        if patience < LOADING_S:
            found.append(f"{pod.called(container)} startupProbe: {patience} s are short to load")
    return found


def models_are_mounted_read_only(objects: Objects, known: Objects) -> list[str]:
    """SERVICE_MODEL lies on a mounted volume which the service cannot change."""
    found = []
    for pod in pods(objects):
        for container in pod.all_containers:
            model = environment(pod, container, [*objects, *known]).get("SERVICE_MODEL")
            if image_name(container) != "mergeline-engine" or model is None:
                continue
            mount = mount_of(container, model)
            if mount is None:
                found.append(f"{pod.called(container)}: no volumeMount holds SERVICE_MODEL {model}")
            elif not mount.get("readOnly"):
                found.append(f"{pod.called(container)}: volumeMount {mount['name']}: not readOnly")
    return found


def mount_of(container: Object, path: str) -> Object | None:
    """The mount that a path lies on."""
    mounts: list[Object] = container.get("volumeMounts") or []
    holding = [m for m in mounts if f"{path}/".startswith(m["mountPath"].rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount["mountPath"]), default=None)


def serving_pods_can_write(objects: Objects) -> list[str]:
    """On a read-only root: scratch space, what the engine compiles, and shared memory."""
    found = []
    for pod, container in serving(objects):
        mounts = {mount["mountPath"].rstrip("/"): mount for mount in container["volumeMounts"]}
        found += [
            f"{pod.called(container)}: nothing to write to at {path}"
            for path in WRITABLE
            if path not in mounts or mounts[path].get("readOnly")
        ]
        shared = (mounts.get("/dev/shm") or {}).get("name")
        if shared and not memory_volumes(pod).get(shared):
            found.append(f"{pod.title} volume {shared}: /dev/shm is to be memory with a sizeLimit")
    return found


def devices_fit_the_settings(objects: Objects, known: Objects) -> list[str]:
    """GPUs as many as the engine shares the model among; the CPU's image where there is none."""
    present = [*objects, *known]
    found = []
    for pod, container in serving(objects):
        group = (pod.owner.get("spec") or {}).get("leaderWorkerTemplate") or {}
        there = {"nodes": int(group.get("size", 1)), "tensor_parallel_size": gpus(pod)}
        there["tensor_parallel_size"] *= there["nodes"]
        for name, count in there.items():
            asked = int(setting(pod, container, present, name))
            if gpus(pod) and count != asked:
                found.append(f"{pod.title}: SERVICE_{name.upper()} is {asked}, there are {count}")
        tag = str(container["image"]).rpartition(":")[2]
        if ("cpu" in tag) != (gpus(pod) == 0):
            found.append(f"{pod.called(container)}: image {tag} with {gpus(pod)} GPUs")
    return found
