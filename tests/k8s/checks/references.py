"""What a manifest names is there: volumes, ConfigMaps, Secrets, claims, accounts, targets."""

from collections import Counter
from collections.abc import Iterator

from tests.k8s.objects import Cluster, Object, title, walk

EXTERNAL = ("Secret", "mergeline-keys")  # what the user brings
# by the field that holds a reference: the kind, and the field of the name where it is a mapping
KINDS = {
    **dict.fromkeys(("configMap", "configMapRef", "configMapKeyRef"), ("ConfigMap", "name")),
    **dict.fromkeys(("secretRef", "secretKeyRef"), ("Secret", "name")),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "scaleTargetRef": ("Deployment", "name"),
    "serviceAccountName": ("ServiceAccount", ""),
    "subdomain": ("Service", ""),
}


def references_exist(cluster: Cluster) -> Iterator[str]:
    """Objects that others name, and the keys in them."""
    for item in cluster.objects:
        for path, holder in walk(item):
            for field, (kind, name_field) in KINDS.items():
                if field not in holder:
                    continue
                reference = holder[field]
                name = reference[name_field] if name_field else reference
                target = cluster.named(kind, name)
                if target:
                    missing = _keys(reference) - {*target.get("data", {})}
                    yield from (f"{title(item)}: {title(target)} has no key {k}" for k in missing)
                elif (kind, name) != EXTERNAL:
                    yield f"{title(item)}: {path}.{field}: there is no {kind}/{name}"


def _keys(reference: str | Object) -> set[str]:
    if isinstance(reference, str):
        return set()
    return {part["key"] for part in (reference, *reference.get("items", ())) if "key" in part}


def pods_with_a_subdomain_have_a_headless_service(cluster: Cluster) -> Iterator[str]:
    """They get a name each only under a Service without an address."""
    for pod in cluster.pods:
        service = cluster.named("Service", pod.spec.get("subdomain", ""))
        if service and service["spec"].get("clusterIP") != "None":
            yield f"{pod.title}: {title(service)} names its pods, but is not headless"


def mounts_fit_volumes(cluster: Cluster) -> Iterator[str]:
    """Each mount has its volume, each volume its mount, each path one mount."""
    for pod in cluster.pods:
        used = set()
        for container in pod.all_containers:
            mounts = container.parts("volumeMounts")
            names = {mount["name"] for mount in mounts}
            used |= names
            for name in names - pod.volumes.keys():
                yield f"{container.title}: volumeMount {name} names no volume"
            for path, count in Counter(mount["mountPath"].rstrip("/") for mount in mounts).items():
                if count > 1:
                    yield f"{container.title}: two volumeMounts at {path}"
        for name in pod.volumes.keys() - used:
            yield f"{pod.title}: volume {name} is mounted nowhere"
