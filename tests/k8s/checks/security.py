"""What each pod and container may do: as little as possible."""

from tests.k8s.objects import Object, Objects, Pod, pods

WANTED_OF_PODS = {"enableServiceLinks": False, "automountServiceAccountToken": False}


def pods_are_closed(objects: Objects) -> list[str]:
    """No links from Services (they set variables), no token, nothing of the host."""
    found = []
    for pod in pods(objects):
        found += [
            f"{pod.title}: spec.{field} must be {str(wanted).lower()}"
            for field, wanted in WANTED_OF_PODS.items()
            if pod.spec.get(field) is not wanted
        ]
        found += [
            f"{pod.title}: spec.{field} must not be set"
            for field in ("hostNetwork", "hostPID", "hostIPC")
            if pod.spec.get(field)
        ]
        found += [
            f"{pod.title} volume {volume['name']}: hostPath opens the node"
            for volume in pod.spec.get("volumes") or []
            if "hostPath" in volume
        ]
        found += [f"{pod.title}: hostPort {p['hostPort']}" for p in pod.ports if "hostPort" in p]
    return found


def containers_are_confined(objects: Objects) -> list[str]:
    """The restricted Pod Security Standard, and a read-only root file system."""
    return [
        f"{pod.called(container)} securityContext.{problem}"
        for pod in pods(objects)
        for container in pod.all_containers
        for problem in _liberties(pod, container)
    ]


def _liberties(pod: Pod, container: Object) -> list[str]:
    own = container.get("securityContext") or {}
    context = (pod.spec.get("securityContext") or {}) | own  # a container's fields win
    capabilities = own.get("capabilities") or {}
    user = context.get("runAsUser")
    rules = {
        "runAsNonRoot must be true": context.get("runAsNonRoot") is True,
        "runAsUser must be a number above 0": type(user) is int and user > 0,
        "readOnlyRootFilesystem must be true": own.get("readOnlyRootFilesystem") is True,
        "allowPrivilegeEscalation must be false": own.get("allowPrivilegeEscalation") is False,
        "privileged must not be set": not own.get("privileged"),
        "capabilities.drop must be [ALL]": capabilities.get("drop") == ["ALL"],
        "capabilities.add must be empty": not capabilities.get("add"),
        "seccompProfile must be RuntimeDefault": (context.get("seccompProfile") or {}).get("type")
        == "RuntimeDefault",
    }
    return [rule for rule, kept in rules.items() if not kept]
