"""Jobs: the API server's own rules, and numbers that a manifest has to repeat."""

import re
from collections.abc import Iterator

from tests.k8s.objects import VARIABLE, Cluster, Container, Object, Pod, title

INDEX = "$(JOB_COMPLETION_INDEX)"
# variables that controllers set before a container's own, and after them
BEFORE = {"LeaderWorkerSet": {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"}}
AFTER = {"Job": {"JOB_COMPLETION_INDEX"}}


def jobs_are_consistent(cluster: Cluster) -> Iterator[str]:
    """The rules that the API server has for Jobs, which no schema can say."""
    for job in cluster.of_kind("Job"):
        spec = job["spec"]
        restart = spec["template"]["spec"].get("restartPolicy")
        indexed, by_index = spec.get("completionMode") == "Indexed", "backoffLimitPerIndex" in spec
        parallel, completions = spec.get("parallelism", 1), spec.get("completions", 1)
        rules = {
            # OnFailure goes with neither backoffLimitPerIndex nor podFailurePolicy
            "restartPolicy must be Never": restart == "Never",
            "an Indexed Job needs completions": "completions" in spec or not indexed,
            "parallelism is above completions": parallel <= completions,
            "backoffLimitPerIndex is for Indexed Jobs only": indexed or not by_index,
            "maxFailedIndexes needs backoffLimitPerIndex": by_index
            or "maxFailedIndexes" not in spec,
        }
        yield from (f"{title(job)}: {rule}" for rule, kept in rules.items() if not kept)


def variables_are_defined(cluster: Cluster) -> Iterator[str]:
    """Kubernetes leaves $(NAME) as it is where no such variable stands before it."""
    for pod in cluster.pods:
        for container in pod.all_containers:
            yield from _undefined(container, pod.owner["kind"])


def _undefined(container: Container, kind: str) -> Iterator[str]:
    seen = {*container.configured} | BEFORE.get(kind, set())
    for variable in container.parts("env"):
        for name in {*VARIABLE.findall(variable.get("value", ""))} - seen:
            yield f"{container.title} env: $({name}) is not defined before {variable['name']}"
        seen.add(variable["name"])
    for name in {*VARIABLE.findall(" ".join(container.command))} - seen - AFTER.get(kind, set()):
        yield f"{container.title} args: $({name}) is not defined"


def indexed_jobs_agree(cluster: Cluster) -> Iterator[str]:
    """The number of parts or nodes is the same wherever a manifest says it."""
    for pod in cluster.pods:
        count = pod.owner["spec"].get("completions")
        if count and pod.owner["spec"].get("completionMode") == "Indexed":
            for word in _words(pod):
                yield from (f"{pod.title}: {word}, but {what}" for what in _other(word, count, pod))
                yield from _uncounted(cluster, pod.owner, word)


def _words(pod: Pod) -> list[str]:
    return [word for container in pod.containers for word in container.words]


def _other(word: str, count: int, pod: Pod) -> Iterator[str]:
    rules = (
        (re.escape(INDEX) + r"/(\d+)$", count, "spec.completions is"),
        (r"^--nnodes=(\d+)$", count, "spec.completions is"),
        (r"^--nproc-per-node=(\d+)$", pod.gpus, "a pod's GPUs are"),
    )
    for pattern, number, what in rules:
        match = re.search(pattern, word)
        if match and int(match[1]) != number:
            yield f"{what} {number}"


def _uncounted(cluster: Cluster, job: Object, word: str) -> Iterator[str]:
    """Another Job that takes the files with the index in their names takes all, and no more."""
    before, index, after = (word.partition("=")[2] or word).partition(INDEX)
    part = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    parts = [*range(job["spec"]["completions"])]
    for pod in cluster.pods if "/" in before and index else ():
        taken = sorted({int(match[1]) for word in _words(pod) if (match := part.fullmatch(word))})
        if taken and taken != parts:
            yield f"{pod.title}: takes parts {taken} of {title(job)}, which has {parts}"
