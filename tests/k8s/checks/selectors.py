"""Selectors and ports that meet nothing, or what they should not: the API server takes them."""

from collections.abc import Iterator, Sequence

from tests.k8s.objects import Cluster, Object, Pod, matches, title, walk


def selectors_match(cluster: Cluster) -> Iterator[str]:
    """Whatever selects pods finds some; a ServiceMonitor, a Service."""
    for item in cluster.objects:
        for path, holder in walk(item):
            fields = {"selector", "podSelector", "labelSelector"} & holder.keys()
            if "topologyKey" in holder:
                fields.add("labelSelector")  # without one it counts no pod
            # beside a namespaceSelector, the pods are somebody else's
            for field in fields if "namespaceSelector" not in holder else ():
                if not _chosen(item, holder.get(field), cluster):
                    yield f"{title(item)}: {path}.{field} matches nothing"


def pods_are_spread_among_their_own(cluster: Cluster) -> Iterator[str]:
    """Spreading over nodes, and anti-affinity, count the pods of the same workload."""
    for pod in cluster.pods:
        anti = pod.spec.get("affinity", {}).get("podAntiAffinity", {})
        for path, term in walk([pod.spec.get("topologySpreadConstraints", []), anti]):
            if "topologyKey" in term or "podAffinityTerm" in term:
                selector = term.get("podAffinityTerm", term).get("labelSelector")
                if not matches(selector, pod.labels):
                    yield f"{pod.title}: {path} does not count its own pods"


def _chosen(item: Object, selector: Object | None, cluster: Cluster) -> Sequence[Object | Pod]:
    if item["kind"] == "Service":
        return cluster.behind(item)
    if item["kind"] == "ServiceMonitor":
        return _monitored(item, cluster)
    return cluster.select(selector)


def _monitored(monitor: Object, cluster: Cluster) -> list[Object]:
    return [
        service
        for service in cluster.of_kind("Service")
        if matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    ]


def workloads_select_only_their_own_pods(cluster: Cluster) -> Iterator[str]:
    """Two controllers with the same pods delete each other's."""
    for item in cluster.of_kind("Deployment"):
        for pod in cluster.select(item["spec"]["selector"]):
            if pod.owner is not item:
                yield f"{title(item)}: spec.selector matches pods of {pod.title}"


def opened_ports_are_there(cluster: Cluster) -> Iterator[str]:
    """A Service's targetPort and the ports that a NetworkPolicy opens are ports of each pod."""
    opened = [
        (service, port.get("targetPort", port["port"]), cluster.behind(service))
        for service in cluster.of_kind("Service")
        for port in service["spec"]["ports"]
    ] + [
        (policy, port["port"], cluster.select(policy["spec"]["podSelector"]))
        for policy in cluster.of_kind("NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    ]
    for item, port, pods in opened:
        for pod in pods:
            if pod.number(port) is None:
                yield f"{title(item)}: port {port}: not in {pod.title}"


def scraped_ports_are_there(cluster: Cluster) -> Iterator[str]:
    """Every Service that a ServiceMonitor finds is scraped at every endpoint's port."""
    for monitor in cluster.of_kind("ServiceMonitor"):
        for service in _monitored(monitor, cluster):
            names = {port["name"] for port in service["spec"]["ports"]}
            for name in {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} - names:
                yield f"{title(monitor)}: port {name}: not in {title(service)}"
