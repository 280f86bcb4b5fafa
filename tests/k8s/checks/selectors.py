"""Selectors that match nothing, or what they should not: the API server takes them silently."""

from collections.abc import Iterator
from typing import Any

from tests.k8s.objects import Object, Objects, Pod, namespace, of_kind, pods, title

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


def matches(selector: Object | None, labels: dict[str, str]) -> bool:
    """A label selector as Kubernetes reads it: none matches nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def listens(pod: Pod, port: int | str) -> bool:
    """Whether a container of the pod declares the port, by its name or number."""
    return any(port in (known.get("name"), known["containerPort"]) for known in pod.ports)


def workloads_select_their_own_pods(objects: Objects, known: Objects) -> list[str]:
    """Its own, and nobody else's: two controllers with the same pods delete each other's."""
    found = []
    present = [*objects, *known]
    for item in of_kind(present, *WORKLOADS):
        selector = item["spec"].get("selector")
        for pod in pods(present):
            if pod.namespace != namespace(item):
                continue
            chosen, own = matches(selector, pod.labels), title(pod.owner) == title(item)
            if own and not chosen:
                found.append(f"{title(item)}: spec.selector does not match its own pods")
            if chosen and not own:
                found.append(f"{title(item)}: spec.selector matches pods of {pod.title}, too")
    return found


def services_select_pods_that_listen(objects: Objects, known: Objects) -> list[str]:
    """Each Service has pods, and each of its pods has the port it sends to."""
    found = []
    present = [*objects, *known]
    for service in of_kind(present, "Service"):
        if not (wanted := service["spec"].get("selector")):
            continue
        chosen = _chosen({"matchLabels": wanted}, service, present)
        if not chosen:
            found.append(f"{title(service)}: spec.selector matches no pod")
        for pod in chosen:
            for port in service["spec"].get("ports") or []:
                target = port.get("targetPort", port["port"])
                if not listens(pod, target):
                    found.append(f"{title(service)}: targetPort {target}: not in {pod.title}")
    return found


def budgets_and_policies_select_pods(objects: Objects, known: Objects) -> list[str]:
    """PodDisruptionBudgets, NetworkPolicies, and the peers and ports that a policy names."""
    present = [*objects, *known]
    found = [
        f"{title(budget)}: spec.selector matches no pod"
        for budget in of_kind(objects, "PodDisruptionBudget")
        if not _chosen(budget["spec"].get("selector"), budget, present)
    ]
    for policy in of_kind(objects, "NetworkPolicy"):
        chosen = _chosen(policy["spec"].get("podSelector"), policy, present)
        if not chosen:
            found.append(f"{title(policy)}: spec.podSelector matches no pod")
        for where, rule, peers in _rules(policy):
            found += _bad_peers(policy, where, peers, present)
            targets = chosen if where.startswith("spec.ingress") else _local(policy, peers, present)
            found += _deaf(policy, where, rule, targets)
    return found


def _rules(policy: Object) -> Iterator[tuple[str, Object, list[Object]]]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(policy["spec"].get(direction) or []):
            yield f"spec.{direction}[{index}]", rule, rule.get(side) or []


def _bad_peers(policy: Object, where: str, peers: list[Object], present: Objects) -> list[str]:
    # with a namespaceSelector, the pods are somebody else's
    own = [peer for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
    return [
        f"{title(policy)}: {where}: podSelector {peer['podSelector']} matches no pod"
        for peer in own
        if not _chosen(peer["podSelector"], policy, present)
    ]


def _local(policy: Object, peers: list[Object], present: Objects) -> list[Pod]:
    """The pods of a rule all of whose peers are ours; none where others may be meant."""
    if any(set(peer) != {"podSelector"} for peer in peers):
        return []
    return [pod for peer in peers for pod in _chosen(peer["podSelector"], policy, present)]


def _deaf(policy: Object, where: str, rule: Object, targets: list[Pod]) -> list[str]:
    asked = [port["port"] for port in rule.get("ports") or [] if "port" in port]
    return [
        f"{title(policy)}: {where}: none of its pods listens on port {port}"
        for port in asked
        if targets and not any(listens(pod, port) for pod in targets)
    ]


def monitors_select_services(objects: Objects, known: Objects) -> list[str]:
    """ServiceMonitors find a Service with each port; PodMonitors find pods with each port."""
    found = []
    present = [*objects, *known]
    for monitor in of_kind(objects, "ServiceMonitor"):
        chosen = [
            service
            for service in of_kind(present, "Service")
            if matches(monitor["spec"].get("selector"), service["metadata"].get("labels") or {})
        ]
        names = [
            {port.get("name") for port in service["spec"]["ports"]} for service in chosen
        ]  # every chosen Service is scraped at every endpoint's port
        found += _unmonitored(monitor, "Service", "endpoints", names)
    for monitor in of_kind(objects, "PodMonitor"):
        selected = _chosen(monitor["spec"].get("selector"), monitor, present)
        names = [{port.get("name") for port in pod.ports} for pod in selected]
        found += _unmonitored(monitor, "pod", "podMetricsEndpoints", names)
    return found


def _unmonitored(monitor: Object, what: str, field: str, names: list[set[Any]]) -> list[str]:
    if not names:
        return [f"{title(monitor)}: spec.selector matches no {what}"]
    return [
        f"{title(monitor)}: spec.{field}[{index}].port {endpoint.get('port')}: not in the {what}"
        for index, endpoint in enumerate(monitor["spec"].get(field) or [])
        if not all(endpoint.get("port") in ports for ports in names)
    ]


def placement_selects_pods(objects: Objects, known: Objects) -> list[str]:
    """Spreading and anti-affinity are against one's own kind; affinity is to any pod."""
    found = []
    everyone = pods([*objects, *known])
    for pod in pods(objects):
        for where, selector, others_too in _placements(pod):
            candidates = everyone if others_too else [pod]
            if not any(matches(selector, other.labels) for other in candidates):
                found.append(f"{pod.title}: {where}.labelSelector matches no pod")
    return found


def _placements(pod: Pod) -> Iterator[tuple[str, Object | None, bool]]:
    for index, spread in enumerate(pod.spec.get("topologySpreadConstraints") or []):
        yield f"topologySpreadConstraints[{index}]", spread.get("labelSelector"), False
    affinity = pod.spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        required = terms.get("requiredDuringSchedulingIgnoredDuringExecution") or []
        preferred = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        for term in [*required, *(weighted["podAffinityTerm"] for weighted in preferred)]:
            yield f"affinity.{kind}", term.get("labelSelector"), kind == "podAffinity"


def _chosen(selector: Object | None, item: Object, present: Objects) -> list[Pod]:
    return [
        pod
        for pod in pods(present)
        if pod.namespace == namespace(item) and matches(selector, pod.labels)
    ]
