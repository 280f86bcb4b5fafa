"""The pods that serve: ports, probes, drain, model, scratch space, devices."""

import re
from collections.abc import Iterator
from typing import Any

from service.settings import Settings
from tests.k8s.checks.quantities import memory_volumes
from tests.k8s.objects import Cluster, Container, Pod, title
from tests.paths import ROOT

HAPROXY = ROOT / "docker" / "balancer" / "haproxy.cfg"
MARGIN_S = 10  # what ending takes besides waiting
LOADING_S = 600  # the least that a large model needs to load
WRITABLE = ("/tmp", "/home/mergeline", "/dev/shm")
ROUTES = {
    "startupProbe": "/readyz",
    "readinessProbe": "/readyz",
    "livenessProbe": "/livez",  # a replica that loads or drains is alive
}


def serving(cluster: Cluster) -> Iterator[tuple[Pod, Container]]:
    """The containers whose program is the service."""
    return ((pod, c) for pod in cluster.pods for c in pod.containers if _is_service(c))


def _is_service(container: Container) -> bool:
    """The service is what the engine's image runs without a command."""
    command = " ".join(container.spec.get("command", ["-m service"]))
    return container.image == "mergeline-engine" and bool(re.search(r"-m service( |$)", command))


def setting(container: Container, name: str) -> Any:
    """A setting of the service as text, or its default."""
    value = container.environment.get(f"SERVICE_{name.upper()}")
    return Settings.model_fields[name].default if value is None else value


def pods_may_drain(cluster: Cluster) -> Iterator[str]:
    """The grace period covers the hook, the drain and the end; who listens says so first."""
    for pod in cluster.pods:
        for container in pod.containers:
            if (drain := _drain(container)) is None:
                continue
            hook, grace = _sleep(container), pod.spec.get("terminationGracePeriodSeconds", 30)
            if not hook and container.ports:
                yield f"{container.title}: lifecycle.preStop must sleep some seconds"
            if grace < (needed := hook + drain + MARGIN_S):
                yield (
                    f"{pod.title}: terminationGracePeriodSeconds {grace} is below {needed:g}: "
                    f"{hook} of preStop, {drain:g} of drain, {MARGIN_S} to end"
                )


def _drain(container: Container) -> float | None:
    """Seconds that it goes on with what it has begun; None for other programs than ours."""
    if container.image == "mergeline-balancer":
        return float(re.findall(r"\n *hard-stop-after (\d+)s\n", HAPROXY.read_text("utf-8"))[0])
    return float(setting(container, "drain_timeout_s")) if _is_service(container) else None


def _sleep(container: Container) -> int:
    """Seconds that preStop sleeps; 0 without a hook, and for a hook that does other things."""
    match container.spec.get("lifecycle", {}).get("preStop"):
        case {"exec": {"command": ["sleep", str(seconds)]}} if seconds.isdigit():
            return int(seconds)
    return 0


def serving_ports_agree(cluster: Cluster) -> Iterator[str]:
    """SERVICE_PORT is the port of the probes and of the Services."""
    for pod, container in serving(cluster):
        if not container.ports:
            continue  # it listens for nobody: a worker of several nodes
        port = int(setting(container, "port"))
        places = {probe: container.target_of(probe).get("port") for probe in ROUTES} | {
            f"{title(service)} {item['name']}": item.get("targetPort", item["port"])
            for service in cluster.of_kind("Service")
            if pod in cluster.behind(service)
            for item in service["spec"]["ports"]
        }
        for place, used in places.items():
            if container.ports.get(str(used), used) != port:
                yield f"{container.title}: SERVICE_PORT is {port}, but {place} has {used}"
        if (host := setting(container, "host")) in ("127.0.0.1", "localhost"):
            yield f"{container.title}: SERVICE_HOST {host} hears no other pod"


def serving_probes_fit(cluster: Cluster) -> Iterator[str]:
    """Each probe asks the route that answers it, and loading gets its time."""
    for _, container in serving(cluster):
        if not container.ports:
            continue
        for probe, route in ROUTES.items():
            if container.target_of(probe).get("path") != route:
                yield f"{container.title} {probe}: does not ask {route}"
        startup = container.spec.get("startupProbe", {})
        patience = startup.get("failureThreshold", 3) * startup.get("periodSeconds", 10)
        if patience < LOADING_S:
            yield f"{container.title} startupProbe: {patience} s are short to load"


def models_are_mounted_read_only(cluster: Cluster) -> Iterator[str]:
    """SERVICE_MODEL lies on a mounted volume which the service cannot change."""
    for container in cluster.containers:
        if model := container.environment.get("SERVICE_MODEL"):
            mount = container.mount_of(model)
            if mount is None or not mount.get("readOnly"):
                yield f"{container.title}: no readOnly volumeMount holds SERVICE_MODEL {model}"


def setting_files_are_mounted(cluster: Cluster) -> Iterator[str]:
    """The files that settings name lie on a volume."""
    for _, container in serving(cluster):
        for name, file in container.environment.items():
            if name.endswith("_FILE") and file and not container.mount_of(file):
                yield f"{container.title}: no volumeMount holds {name}={file}"


def serving_pods_can_write(cluster: Cluster) -> Iterator[str]:
    """On a read-only root: scratch space, what the engine compiles, and shared memory."""
    for pod, container in serving(cluster):
        mounts = {
            mount["mountPath"]: mount["name"]
            for mount in container.parts("volumeMounts")
            if not mount.get("readOnly")
        }
        for path in WRITABLE:
            if "emptyDir" not in pod.volumes.get(mounts.get(path, ""), {}):
                yield f"{container.title}: nothing to write to at {path}"
        if mounts.get("/dev/shm") not in memory_volumes(pod):
            yield f"{pod.title}: /dev/shm is not memory"


def devices_fit_the_settings(cluster: Cluster) -> Iterator[str]:
    """GPUs as many as the engine shares the model among; the CPU's image where there is none."""
    for pod, container in serving(cluster):
        nodes = pod.owner["spec"].get("leaderWorkerTemplate", {}).get("size", 1)
        for name, count in {"nodes": nodes, "tensor_parallel_size": nodes * pod.gpus}.items():
            configured = int(setting(container, name))
            if pod.gpus and configured != count:
                yield f"{pod.title}: SERVICE_{name.upper()} is {configured}, there are {count}"
        if ("cpu" in container.spec["image"].rpartition(":")[2]) != (pod.gpus == 0):
            yield f"{container.title}: image {container.spec['image']} with {pod.gpus} GPUs"
