"""What a manifest names is there: volumes, ConfigMaps, Secrets, claims, accounts, targets."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from tests.k8s.objects import Object, Objects, Pod, named, namespace, of_kind, pods, title


class Reference(NamedTuple):
    """An object that another one names, and perhaps a key in it."""

    where: str
    kind: str
    name: str
    key: str | None = None


def mounts_name_volumes(objects: Objects) -> list[str]:
    """Each mount has its volume, each volume its mount, each path one mount."""
    found = []
    for pod in pods(objects):
        volumes = {volume["name"] for volume in pod.spec.get("volumes") or []} | _claimed(pod)
        used = set()
        for container in pod.all_containers:
            mounts = container.get("volumeMounts") or []
            used |= {mount["name"] for mount in mounts}
            found += [
                f"{pod.called(container)}: volumeMount {mount['name']} names no volume"
                for mount in mounts
                if mount["name"] not in volumes
            ]
            paths = [mount["mountPath"].rstrip("/") for mount in mounts]
            found += [
                f"{pod.called(container)}: two volumeMounts at {path}"
                for path in sorted({path for path in paths if paths.count(path) > 1})
            ]
        found += [f"{pod.title}: volume {name} is mounted nowhere" for name in volumes - used]
    return found


def _claimed(pod: Pod) -> set[str]:
    if pod.owner["kind"] != "StatefulSet":
        return set()
    claims = pod.owner["spec"].get("volumeClaimTemplates") or []
    return {claim["metadata"]["name"] for claim in claims}


def references_exist(
    objects: Objects, known: Objects, external: Collection[tuple[str, str]] = ()
) -> list[str]:
    """External: (kind, name) of what the user brings."""
    present = [*objects, *known]
    wanted = [(reference, pod.namespace) for pod in pods(objects) for reference in _of_pod(pod)] + [
        (reference, namespace(item)) for item in objects for reference in _of_object(item)
    ]
    found = []
    for reference, where in wanted:
        if (reference.kind, reference.name) in external:
            continue
        target = named(present, reference.kind, reference.name, where)
        if target is None:
            found.append(f"{reference.where}: there is no {reference.kind}/{reference.name}")
        elif reference.key is not None and reference.key not in _keys(target):
            found.append(f"{reference.where}: {title(target)} has no key {reference.key}")
    return found


def _keys(item: Object) -> set[str]:
    return {key for part in ("data", "binaryData", "stringData") for key in item.get(part) or {}}


def _of_pod(pod: Pod) -> Iterator[Reference]:
    account = pod.spec.get("serviceAccountName", "default")
    if account != "default":
        yield Reference(f"{pod.title} serviceAccountName", "ServiceAccount", account)
    if subdomain := pod.spec.get("subdomain"):
        yield Reference(f"{pod.title} subdomain", "Service", subdomain)
    for secret in pod.spec.get("imagePullSecrets") or []:
        yield Reference(f"{pod.title} imagePullSecrets", "Secret", secret["name"])
    volumes = pod.spec.get("volumes") or []
    for volume in volumes:
        yield from _of_volume(f"{pod.title} volume {volume['name']}", volume)
    sources = {volume["name"]: volume for volume in volumes}
    for container in pod.all_containers:
        yield from _of_environment(pod.called(container), container)
        yield from _of_sub_paths(pod.called(container), container, sources)


def _of_volume(where: str, volume: Object) -> Iterator[Reference]:
    if claim := volume.get("persistentVolumeClaim"):
        yield Reference(where, "PersistentVolumeClaim", claim["claimName"])
    for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
        for field, kind, name_field in (
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "name" if source is not volume else "secretName"),
        ):
            wanted = source.get(field)
            if wanted and not wanted.get("optional"):
                yield Reference(where, kind, wanted[name_field])
                for item in wanted.get("items") or []:
                    yield Reference(where, kind, wanted[name_field], item["key"])


def _of_environment(where: str, container: Object) -> Iterator[Reference]:
    kinds = {"configMap": "ConfigMap", "secret": "Secret"}
    for field, kind in kinds.items():
        for source in container.get("envFrom") or []:
            wanted = source.get(f"{field}Ref")
            if wanted and not wanted.get("optional"):
                yield Reference(f"{where} envFrom", kind, wanted["name"])
        for variable in container.get("env") or []:
            wanted = (variable.get("valueFrom") or {}).get(f"{field}KeyRef")
            if wanted and not wanted.get("optional"):
                key = wanted["key"]
                yield Reference(f"{where} env {variable['name']}", kind, wanted["name"], key)


def _of_sub_paths(where: str, container: Object, sources: Object) -> Iterator[Reference]:
    for mount in container.get("volumeMounts") or []:
        wanted = (sources.get(mount["name"]) or {}).get("configMap")
        if wanted and "subPath" in mount and not wanted.get("items"):
            yield Reference(
                f"{where} subPath of {mount['mountPath']}",
                "ConfigMap",
                wanted["name"],
                mount["subPath"],
            )


def _of_object(item: Object) -> Iterator[Reference]:
    spec = item.get("spec") or {}
    if item["kind"] == "StatefulSet" and spec.get("serviceName"):
        yield Reference(f"{title(item)} spec.serviceName", "Service", spec["serviceName"])
    if item["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}:
        target = spec["scaleTargetRef"]
        kind = target.get("kind", "Deployment")
        yield Reference(f"{title(item)} spec.scaleTargetRef", kind, target["name"])
    for trigger in (spec.get("triggers") or []) if item["kind"] == "ScaledObject" else []:
        if "authenticationRef" in trigger:
            kind = trigger["authenticationRef"].get("kind", "TriggerAuthentication")
            name = trigger["authenticationRef"]["name"]
            yield Reference(f"{title(item)} authenticationRef", kind, name)


def subdomains_are_headless(objects: Objects, known: Objects) -> list[str]:
    """Pods get a name each only under a Service without an address."""
    present = [*objects, *known]
    wanted = [(pod.title, pod.spec.get("subdomain"), pod.namespace) for pod in pods(objects)]
    wanted += [
        (title(item), item["spec"].get("serviceName"), namespace(item))
        for item in of_kind(objects, "StatefulSet")
    ]
    found = []
    for who, name, where in wanted:
        service = named(present, "Service", name, where) if name else None
        if service and service["spec"].get("clusterIP") != "None":
            found.append(f"{who}: {title(service)} names its pods, but is not headless")
    return found
