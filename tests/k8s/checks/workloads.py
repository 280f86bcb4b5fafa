"""Rollouts, probes and replicas whose fields are valid each, and wrong together."""

import re
from collections.abc import Iterator

from tests.k8s.objects import Cluster, Object, title

HANDLERS = {"exec", "httpGet", "tcpSocket", "grpc", "sleep"}
ONE_SUCCESS = {"startupProbe", "livenessProbe"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
NO_PODS = (0, "0%")
OF_THE_POD = {"runAsUser", "runAsNonRoot", "seccompProfile"}
# where each kind keeps its rollout, and its defaults of maxSurge and maxUnavailable
ROLLING: dict[str, tuple[str, str, int | str, int | str]] = {
    "Deployment": ("strategy", "rollingUpdate", "25%", "25%"),
    "LeaderWorkerSet": ("rolloutStrategy", "rollingUpdateConfiguration", 0, 1),
}


def rollouts_can_move(cluster: Cluster) -> Iterator[str]:
    """A rollout may add a pod, or take one away, or both: with neither it never begins."""
    for item, rolling in _rollouts(cluster):
        for name, value in rolling.items():
            if not re.fullmatch(r"\d+|100%|\d{1,2}%", str(value)):
                yield f"{title(item)}: {name}: {value!r} is no number or percentage"
        if all(value in NO_PODS for value in rolling.values()):
            yield f"{title(item)}: maxSurge and maxUnavailable are both 0"


def gpu_rollouts_need_no_spare_gpu(cluster: Cluster) -> Iterator[str]:
    """A pod that surges waits for a device that the old pod holds: the rollout hangs."""
    for item, rolling in _rollouts(cluster):
        gpus = sum(pod.gpus for pod in cluster.pods if pod.owner is item)
        if gpus and rolling["maxSurge"] not in NO_PODS:
            yield f"{title(item)}: maxSurge: {rolling['maxSurge']} needs GPUs that old pods hold"


def _rollouts(cluster: Cluster) -> Iterator[tuple[Object, Object]]:
    for item in cluster.of_kind(*ROLLING):
        strategy, update, surge, unavailable = ROLLING[item["kind"]]
        rolling = item["spec"].get(strategy, {}).get(update, {})
        yield item, {"maxSurge": surge, "maxUnavailable": unavailable} | rolling


def budgets_let_a_node_drain(cluster: Cluster) -> Iterator[str]:
    """A budget that no pod may leave keeps every node of its pods from being drained.

    minAvailable is not taken: whoever scales down to it would have such a budget.
    """
    for budget in cluster.of_kind("PodDisruptionBudget"):
        if budget["spec"].get("maxUnavailable", 0) in NO_PODS:
            yield f"{title(budget)}: spec.maxUnavailable lets no pod go"


def scaled_workloads_leave_replicas_out(cluster: Cluster) -> Iterator[str]:
    """Else each `kubectl apply` sets back what the autoscaler has set."""
    for scaler in cluster.of_kind("ScaledObject"):
        workload = cluster.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        if workload and "replicas" in workload["spec"]:
            yield f"{title(workload)}: spec.replicas, but {title(scaler)} sets them"


def handlers_are_single(cluster: Cluster) -> Iterator[str]:
    """Each probe and each hook does one thing; its port is one of the container's."""
    for container in cluster.containers:
        hooks = container.spec.get("lifecycle", {})
        probes = {name: container.spec[name] for name in PROBES if name in container.spec}
        for name, handler in {**probes, **hooks}.items():
            kinds = sorted(HANDLERS & handler.keys())
            if len(kinds) != 1:
                yield f"{container.title} {name}: one handler is needed, not {kinds}"
            ports = {handler[kind].get("port") for kind in kinds} - {None}
            if not ports <= {*container.ports, *container.ports.values()}:
                yield f"{container.title} {name}: the container has no port {ports}"
            if name in ONE_SUCCESS and handler.get("successThreshold", 1) != 1:
                yield f"{container.title} {name}: successThreshold must be 1"


def listeners_have_probes(cluster: Cluster) -> Iterator[str]:
    """Who listens and runs on says whether it is ready, and whether it is alive."""
    for pod in cluster.pods:
        for container in pod.containers if pod.owner["kind"] in ROLLING else ():
            for probe in ("readinessProbe", "livenessProbe"):
                if container.ports and probe not in container.spec:
                    yield f"{container.title}: has ports, but no {probe}"


def pods_are_closed(cluster: Cluster) -> Iterator[str]:
    """What checkov leaves open; and links from Services set variables that the engine reads."""
    for pod in cluster.pods:
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.title}: spec.enableServiceLinks must be false"
        if pod.spec.get("securityContext", {}).get("runAsNonRoot") is not True:
            yield f"{pod.title}: spec.securityContext.runAsNonRoot must be true"
        for container in pod.all_containers:
            # checkov looks at no init container's, and passes a pod whose own profile is right
            for field in OF_THE_POD & container.spec.get("securityContext", {}).keys():
                yield f"{container.title}: securityContext.{field} is for the pod to say"
        for name, volume in pod.volumes.items():
            if "hostPath" in volume:
                yield f"{pod.title}: volume {name}: hostPath opens the node"
