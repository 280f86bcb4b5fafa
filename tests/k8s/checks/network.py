"""Who calls whom: the name is a Service, the port is its port, and the policies let it through."""

import re
from collections.abc import Iterator

from tests.k8s.checks.selectors import matches
from tests.k8s.checks.serving import HAPROXY, image_name
from tests.k8s.objects import (
    Object,
    Objects,
    Pod,
    environment,
    named,
    namespace,
    of_kind,
    pods,
    title,
    words,
)

URL = re.compile(r"^(?:--[\w-]+=)?https?://([a-z0-9.-]+):(\d+)")
DNS = 53
Port = int | None  # None: any port


def calls_reach_their_service(objects: Objects, known: Objects) -> list[str]:
    """Every URL in a command line or a variable, and the balancer's way to the replicas."""
    present = [*objects, *known]
    found = []
    for pod in pods(objects):
        for host, port in _calls(pod, present):
            who = f"{pod.title} calls {host}:{port}"
            service = _service(host, pod, present)
            if service is None:
                found.append(f"{who}: there is no such Service")
                continue
            target = _target(service, port)
            if target is None:
                found.append(f"{who}: {title(service)} has no port {port}")
                continue
            for other in _behind(service, present):
                found += [f"{who}: {reason}" for reason in _closed(pod, other, target, present)]
            if not _lets(pod, None, DNS, "Egress", present):
                found.append(f"{who}: no NetworkPolicy lets it ask the DNS")
    return found


def _calls(pod: Pod, present: Objects) -> Iterator[tuple[str, int]]:
    for container in pod.all_containers:
        variables = environment(pod, container, present)
        said = [*words(pod, container, present), *(value or "" for value in variables.values())]
        for match in filter(None, map(URL.match, said)):
            host = match[1]
            # of another namespace: not ours to know
            if "." not in host or host.split(".")[1] == pod.namespace:
                yield host, int(match[2])
        if image_name(container) == "mergeline-balancer":
            yield variables.get("SERVE_HOST") or "serve", replica_port()


def replica_port() -> int:
    """Where HAProxy looks for replicas."""
    match = re.search(r'server-template .*SERVE_HOST}"?:(\d+)', HAPROXY.read_text("utf-8"))
    return int(match[1]) if match else 0


def _service(host: str, pod: Pod, present: Objects) -> Object | None:
    name, *rest = host.split(".")
    return named(present, "Service", name, rest[0] if rest else pod.namespace)


def _target(service: Object, port: int) -> int | str | None:
    """The pods' port behind a port of the Service; a headless one passes nothing on."""
    for item in service["spec"].get("ports") or []:
        if item["port"] == port:
            headless = service["spec"].get("clusterIP") == "None"
            target: int | str = port if headless else item.get("targetPort", port)
            return target
    return None


def _behind(service: Object, present: Objects) -> list[Pod]:
    selector = {"matchLabels": service["spec"].get("selector") or {}}
    return [
        pod
        for pod in pods(present)
        if pod.namespace == namespace(service) and matches(selector, pod.labels)
    ]


def groups_may_talk(objects: Objects, known: Objects) -> list[str]:
    """Pods that share one model or one training use any port among themselves."""
    present = [*objects, *known]
    grouped = [pod for pod in pods(objects) if _is_grouped(pod)]
    return [
        f"{pod.title}: at any port: {reason}"
        for pod in grouped
        for other in grouped
        if other.owner is pod.owner
        for reason in _closed(pod, other, None, present)
    ]


def _is_grouped(pod: Pod) -> bool:
    spec = pod.owner["spec"]
    return pod.owner["kind"] == "LeaderWorkerSet" or (
        spec.get("completionMode") == "Indexed" and "subdomain" in pod.spec
    )


def _closed(pod: Pod, other: Pod, target: int | str | None, present: Objects) -> list[str]:
    """What keeps one pod from another: it may not call, or the other may not answer."""
    port = target if not isinstance(target, str) else _number(other, target)
    found = []
    if not _lets(pod, other, port, "Egress", present):
        found.append(f"no NetworkPolicy lets it out to {other.title}")
    if not _lets(other, pod, port, "Ingress", present):
        found.append(f"no NetworkPolicy lets it in to {other.title}")
    return found


def _number(pod: Pod, name: str) -> Port:
    return next((port["containerPort"] for port in pod.ports if port.get("name") == name), None)


def _lets(pod: Pod, peer: Pod | None, port: Port, direction: str, present: Objects) -> bool:
    """Whether the policies of a pod allow traffic; peer None: something outside, the DNS."""
    concerning = [
        policy
        for policy in of_kind(present, "NetworkPolicy")
        if namespace(policy) == pod.namespace
        and matches(policy["spec"].get("podSelector"), pod.labels)
        and direction in policy["spec"].get("policyTypes", ["Ingress"])
    ]
    rules = [r for policy in concerning for r in policy["spec"].get(direction.lower()) or []]
    listener = peer if direction == "Egress" else pod
    side = "to" if direction == "Egress" else "from"
    return not concerning or any(
        _has_port(rule, port, listener) and _has_peer(rule.get(side), pod, peer, present)
        for rule in rules
    )


def _has_port(rule: Object, port: Port, listener: Pod | None) -> bool:
    allowed = [item.get("port") for item in rule.get("ports") or []]
    if listener:
        allowed += [_number(listener, name) for name in allowed if isinstance(name, str)]
    return not allowed or (port is not None and port in allowed)


def _has_peer(peers: list[Object] | None, pod: Pod, other: Pod | None, present: Objects) -> bool:
    if not peers or other is None:
        return True
    return any(
        _in_namespace(peer, pod, other, present)
        and matches(peer.get("podSelector", {}), other.labels)
        for peer in peers
        if "ipBlock" not in peer
    )


def _in_namespace(peer: Object, pod: Pod, other: Pod, present: Objects) -> bool:
    if "namespaceSelector" not in peer:
        return pod.namespace == other.namespace
    holder = named(present, "Namespace", other.namespace, "") or {"metadata": {}}
    labels = holder["metadata"].get("labels") or {}
    known = labels | {"kubernetes.io/metadata.name": other.namespace}
    return matches(peer["namespaceSelector"], known)


def balancers_know_every_replica(objects: Objects, known: Objects) -> list[str]:
    """MAX_SERVERS is room for all replicas, and one more while they are replaced."""
    present = [*objects, *known]
    most = 0
    for scaler in of_kind(present, "ScaledObject"):
        most = max(most, scaler["spec"].get("maxReplicaCount", 100))
    for item in of_kind(present, "Deployment"):
        most = max(most, item["spec"].get("replicas", 1))
    return [
        f"{pod.title}: MAX_SERVERS {room} is no room for {most} replicas and a new one"
        for pod in pods(objects)
        for container in pod.containers
        if image_name(container) == "mergeline-balancer"
        for room in [int(environment(pod, container, present).get("MAX_SERVERS") or 32)]
        if room < most + 1
    ]
