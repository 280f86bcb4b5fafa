"""Rollouts, probes, replicas and jobs whose fields are valid each, and wrong together."""

import re
from collections.abc import Iterator

from tests.k8s.checks.selectors import matches
from tests.k8s.objects import Object, Objects, Pod, named, namespace, of_kind, pods, title

HANDLERS = {"exec", "httpGet", "tcpSocket", "grpc", "sleep"}
ONE_SUCCESS = {"startupProbe", "livenessProbe"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# where each kind keeps its rollout, and its defaults of maxSurge and maxUnavailable
ROLLING: dict[str, tuple[str, str, object, object]] = {
    "Deployment": ("strategy", "rollingUpdate", "25%", "25%"),
    "DaemonSet": ("updateStrategy", "rollingUpdate", 0, 1),
    "LeaderWorkerSet": ("rolloutStrategy", "rollingUpdateConfiguration", 0, 1),
}
PERCENT = re.compile(r"(100|[1-9]?\d)%")


def rollouts_can_move(objects: Objects) -> list[str]:
    """A rollout may add a pod, or take one away, or both: with neither it never begins."""
    found = []
    for where, surge, unavailable in _rollouts(objects):
        values = {"maxSurge": surge, "maxUnavailable": unavailable}
        bad = {name: value for name, value in values.items() if not _is_count(value)}
        found += [
            f"{where}.{name}: {value!r} is no number or percentage" for name, value in bad.items()
        ]
        if not bad and all(_is_none(value) for value in values.values()):
            found.append(f"{where}: maxSurge and maxUnavailable are both 0")
    return found


def _rollouts(objects: Objects) -> Iterator[tuple[str, object, object]]:
    """(Field, maxSurge, maxUnavailable) of every rolling update."""
    for item in objects:
        if item["kind"] in ROLLING:
            strategy, update, surge, unavailable = ROLLING[item["kind"]]
            chosen = item["spec"].get(strategy) or {}
            if chosen.get("type", "RollingUpdate") == "RollingUpdate":
                rolling = chosen.get(update) or {}
                yield (
                    f"{title(item)}: spec.{strategy}.{update}",
                    rolling.get("maxSurge", surge),
                    rolling.get("maxUnavailable", unavailable),
                )


def _is_count(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return value >= 0
    return isinstance(value, str) and bool(PERCENT.fullmatch(value))


def _is_none(value: object) -> bool:
    return value in (0, "0%")


def gpu_rollouts_need_no_spare_gpu(objects: Objects) -> list[str]:
    """A pod that surges waits for a device that the old pod holds: the rollout hangs."""
    with_gpus = [pod.owner for pod in pods(objects) if gpus(pod)]
    return [
        f"{where}.maxSurge: {surge!r} needs GPUs that the old pods hold"
        for where, surge, _ in _rollouts(with_gpus)
        if not _is_none(surge)
    ]


def gpus(pod: Pod) -> int:
    """How many GPUs a pod asks for."""
    limits = [(c.get("resources") or {}).get("limits") or {} for c in pod.containers]
    return sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits)


def budgets_let_a_node_drain(objects: Objects, known: Objects) -> list[str]:
    """A budget that no pod may leave keeps every node of its pods from being drained."""
    found = []
    for budget in of_kind(objects, "PodDisruptionBudget"):
        spec = budget["spec"]
        given = sorted({"minAvailable", "maxUnavailable"} & {*spec})
        if len(given) != 1:
            found.append(f"{title(budget)}: give one of minAvailable and maxUnavailable")
        elif not _is_count(spec[given[0]]):
            found.append(f"{title(budget)}: spec.{given[0]}: {spec[given[0]]!r} is no count")
        elif _is_none(spec.get("maxUnavailable")) or spec.get("minAvailable") == "100%":
            found.append(f"{title(budget)}: spec.{given[0]} lets no pod go")
        elif isinstance(least := spec.get("minAvailable"), int):
            fewest = _fewest_pods(budget, [*objects, *known])
            if fewest is not None and least >= fewest:
                found.append(f"{title(budget)}: spec.minAvailable {least} of {fewest} pods")
    return found


def _fewest_pods(budget: Object, present: Objects) -> int | None:
    """How many pods it guards at least; None when that is not known."""
    selector, where = budget["spec"].get("selector"), namespace(budget)
    owners = {
        (pod.owner["kind"], pod.owner["metadata"]["name"]): pod.owner["spec"].get("replicas", 1)
        for pod in pods(present)
        if pod.namespace == where and matches(selector, pod.labels)
    }
    for scaler in of_kind(present, "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        key = target.get("kind", "Deployment"), target["name"]
        if key in owners:
            owners[key] = scaler["spec"].get("minReplicaCount", 0)
    return sum(owners.values()) if owners else None


def handlers_are_single(objects: Objects) -> list[str]:
    """Each probe and each hook does one thing; its port is one of the container's."""
    found = []
    for pod in pods(objects):
        for container in pod.all_containers:
            names = {port.get("name") for port in container.get("ports") or []}
            for what, handler in _handlers(container):
                where = f"{pod.called(container)} {what}"
                kinds = sorted(HANDLERS & {*handler})
                if len(kinds) != 1:
                    found.append(f"{where}: one handler is needed, not {kinds or 'none'}")
                for kind in kinds:
                    port = (handler[kind] or {}).get("port")
                    if isinstance(port, str) and port not in names:
                        found.append(f"{where}: the container has no port named {port}")
                if what in ONE_SUCCESS and handler.get("successThreshold", 1) != 1:
                    found.append(f"{where}: successThreshold must be 1")
    return found


def listeners_have_probes(objects: Objects) -> list[str]:
    """Who listens and runs on says whether it is ready, and whether it is alive."""
    return [
        f"{pod.called(container)}: has ports, but no {probe}"
        for pod in pods(of_kind(objects, *ROLLING, "StatefulSet"))
        for container in pod.containers
        for probe in ("readinessProbe", "livenessProbe")
        if container.get("ports") and not container.get(probe)
    ]


def _handlers(container: Object) -> Iterator[tuple[str, Object]]:
    for probe in PROBES:
        if container.get(probe) is not None:
            yield probe, container[probe]
    for hook, handler in (container.get("lifecycle") or {}).items():
        if hook in {"preStop", "postStart"}:
            yield f"lifecycle.{hook}", handler


def scaled_workloads_leave_replicas_out(objects: Objects, known: Objects) -> list[str]:
    """Else each `kubectl apply` sets back what the autoscaler has set."""
    present = [*objects, *known]
    found = []
    for scaler in of_kind(present, "ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        kind, name = target.get("kind", "Deployment"), target["name"]
        workload = named(objects, kind, name, namespace(scaler))
        if workload and "replicas" in workload["spec"]:
            found.append(f"{title(workload)}: spec.replicas, but {title(scaler)} sets them")
    return found
