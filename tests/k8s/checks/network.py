"""Who calls whom: the name is a Service, the port is its port, and the policies let it through."""

import re
from collections.abc import Iterator

from tests.k8s.checks.serving import HAPROXY
from tests.k8s.objects import Cluster, Object, Pod, matches, title

URL = re.compile(r"^(?:--[\w-]+=)?https?://([a-z0-9-]+)(?:\.mergeline[a-z.]*)?:(\d+)")
DNS = 53
DEFAULT_SERVERS = 32  # of docker/balancer/haproxy.cfg


def calls_reach_their_service(cluster: Cluster) -> Iterator[str]:
    """Every URL in a command line or a variable, and the balancer's way to the replicas."""
    for pod in cluster.pods:
        for name, port in _calls(pod):
            reasons = [*_unreachable(cluster, pod, name, port)]
            if not _lets(cluster, pod, None, DNS, "Egress"):
                reasons.append("no NetworkPolicy lets it ask the DNS")
            yield from (f"{pod.title} calls {name}:{port}: {reason}" for reason in reasons)


def _calls(pod: Pod) -> Iterator[tuple[str, int]]:
    for container in pod.all_containers:
        variables = container.environment
        for word in [*container.words, *filter(None, variables.values())]:
            if match := URL.match(word):
                yield match[1], int(match[2])
        if container.image == "mergeline-balancer":
            [port] = re.findall(
                r'server-template .*SERVE_HOST}"?:(\d+)', HAPROXY.read_text("utf-8")
            )
            yield str(variables["SERVE_HOST"]).partition(".")[0], int(port)


def _unreachable(cluster: Cluster, pod: Pod, name: str, port: int) -> Iterator[str]:
    service = cluster.named("Service", name)
    if service is None:
        yield "there is no such Service"
        return
    targets = {
        item["port"]: item.get("targetPort", item["port"]) for item in service["spec"]["ports"]
    }
    if port not in targets:
        yield f"{title(service)} has no such port"
    # a headless one passes nothing on
    target = port if service["spec"].get("clusterIP") == "None" else targets.get(port, port)
    for other in cluster.behind(service):
        yield from _closed(cluster, pod, other, other.number(target))


def groups_may_talk(cluster: Cluster) -> Iterator[str]:
    """Pods that share one model or one training use any port among themselves."""
    grouped = [
        pod
        for pod in cluster.pods
        if pod.owner["kind"] == "LeaderWorkerSet" or "subdomain" in pod.spec
    ]
    for pod in grouped:
        for other in grouped:
            if other.owner is pod.owner:
                reasons = _closed(cluster, pod, other, None)
                yield from (f"{pod.title}: at any port: {reason}" for reason in reasons)


def _closed(cluster: Cluster, pod: Pod, other: Pod, port: int | None) -> Iterator[str]:
    """What keeps one pod from another: it may not call, or the other may not answer."""
    if not _lets(cluster, pod, other, port, "Egress"):
        yield f"no NetworkPolicy lets it out to {other.title}"
    if not _lets(cluster, other, pod, port, "Ingress"):
        yield f"no NetworkPolicy lets it in to {other.title}"


def _lets(cluster: Cluster, pod: Pod, peer: Pod | None, port: int | None, way: str) -> bool:
    """Whether its policies allow traffic at a port, None: at any; peer None: outside, the DNS."""
    policies = [
        policy["spec"]
        for policy in cluster.of_kind("NetworkPolicy")
        if way in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], pod.labels)
    ]
    listener = peer if way == "Egress" else pod
    return not policies or any(
        _has_port(rule, port, listener) and _has_peer(rule, peer)
        for policy in policies
        for rule in policy.get(way.lower(), [])
    )


def _has_port(rule: Object, port: int | None, listener: Pod | None) -> bool:
    ports = [item["port"] for item in rule.get("ports", [])]
    numbers = [listener.number(each) if listener else each for each in ports]
    return not ports or (port is not None and port in numbers)


def _has_peer(rule: Object, other: Pod | None) -> bool:
    peers = rule.get("to") or rule.get("from") or [{"podSelector": {}}]
    return other is None or any(
        "namespaceSelector" not in peer and matches(peer["podSelector"], other.labels)
        for peer in peers
    )


def balancers_know_every_replica(cluster: Cluster) -> Iterator[str]:
    """MAX_SERVERS is room for all replicas, and one more while they are replaced."""
    replicas = [
        *(item["spec"].get("replicas", 1) for item in cluster.of_kind("Deployment")),
        *(item["spec"].get("maxReplicaCount", 100) for item in cluster.of_kind("ScaledObject")),
    ]
    most = max(replicas)
    for container in cluster.containers:
        room = int(container.environment.get("MAX_SERVERS") or DEFAULT_SERVERS)
        if container.image == "mergeline-balancer" and room < most + 1:
            yield f"{container.title}: MAX_SERVERS {room} is no room for {most} replicas and one"
