"""Jobs: the API server's own rules, and numbers that a manifest has to repeat."""

import re
from collections.abc import Iterator

from tests.k8s.checks.workloads import gpus
from tests.k8s.objects import VARIABLE, Object, Objects, environment, of_kind, pods, title, words

INDEX = "$(JOB_COMPLETION_INDEX)"
# variables that controllers add
INJECTED = {
    "Job": {"JOB_COMPLETION_INDEX"},
    "LeaderWorkerSet": {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"},
}


def jobs_are_consistent(objects: Objects) -> list[str]:
    """The rules that the API server has for Jobs, which no schema can say."""
    found = []
    for item in of_kind(objects, "Job"):
        spec, where = item["spec"], title(item)
        indexed = spec.get("completionMode") == "Indexed"
        restart = spec["template"]["spec"].get("restartPolicy")
        if restart not in {"Never", "OnFailure"}:
            found.append(f"{where}: restartPolicy {restart} is not allowed in a Job")
        if indexed and not isinstance(spec.get("completions"), int):
            found.append(f"{where}: an Indexed Job needs spec.completions")
        if int(spec.get("parallelism", 1)) > int(spec.get("completions", 1)):
            found.append(f"{where}: spec.parallelism is above spec.completions")
        if "backoffLimitPerIndex" in spec and not indexed:
            found.append(f"{where}: backoffLimitPerIndex is for Indexed Jobs only")
        if {"backoffLimitPerIndex", "podFailurePolicy"} & {*spec} and restart != "Never":
            found.append(f"{where}: backoffLimitPerIndex and podFailurePolicy need Never")
        if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
            found.append(f"{where}: maxFailedIndexes needs backoffLimitPerIndex")
    return found


def variables_are_defined(objects: Objects, known: Objects) -> list[str]:
    """Kubernetes leaves $(NAME) as it is where the container has no such variable."""
    present = [*objects, *known]
    found = []
    for pod in pods(objects):
        added = INJECTED.get(pod.owner["kind"], set())
        for container in pod.all_containers:
            defined = {*environment(pod, container, present)} | added
            found += [
                f"{pod.called(container)} args: $({name}) is not defined"
                for word in words(pod, container, ())
                for name in VARIABLE.findall(word)
                if name not in defined
            ]
            found += [
                f"{pod.called(container)} env: $({name}) is not defined before {variable}"
                for variable, name in _too_early(container, defined)
            ]
    return found


def _too_early(container: Object, defined: set[str]) -> Iterator[tuple[str, str]]:
    """A variable's value sees only those before it; a Job's index is appended, after all."""
    own = container.get("env") or []
    seen = defined - {variable["name"] for variable in own} - INJECTED["Job"]
    for variable in own:
        for name in VARIABLE.findall(variable.get("value") or ""):
            if name not in seen:
                yield variable["name"], name
        seen.add(variable["name"])


def indexed_jobs_agree(objects: Objects, known: Objects) -> list[str]:
    """The number of parts or nodes is the same wherever a manifest says it."""
    present = [*objects, *known]
    found = []
    for job in of_kind(objects, "Job"):
        count = job["spec"].get("completions")
        if job["spec"].get("completionMode") != "Indexed":
            continue
        for pod in pods([job]):
            for container in pod.containers:
                said = words(pod, container, present)
                found += [f"{title(job)}: {word}" for word in _other_counts(said, count, gpus(pod))]
                for output in _outputs(said):
                    found += _uncounted(job, output, present)
    return found


def _other_counts(said: list[str], count: int, devices: int) -> Iterator[str]:
    rules = (
        (re.escape(INDEX) + r"/(\d+)$", count, "spec.completions is"),
        (r"^--nnodes=(\d+)$", count, "spec.completions is"),
        (r"^--nproc-per-node=(\d+)$", devices, "a pod's GPUs are"),
    )
    for word in said:
        for pattern, right, what in rules:
            match = re.search(pattern, word)
            if match and right and int(match[1]) != right:
                yield f"{word}, but {what} {right}"


def _outputs(said: list[str]) -> list[str]:
    """Files with the index in their names."""
    return [
        word.partition("=")[2] or word
        for word in said
        if re.search(r"/[^/]*" + re.escape(INDEX) + r"[^/]*\.\w+$", word)
    ]


def _uncounted(job: Object, output: str, present: Objects) -> list[str]:
    """Another Job that takes the parts takes all of them, and no more."""
    before, _, after = output.partition(INDEX)
    part = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    wanted = [*range(job["spec"]["completions"])]
    found = []
    for other in of_kind(present, "Job"):
        said = [word for p in pods([other]) for c in p.containers for word in words(p, c, present)]
        taken = sorted({int(match[1]) for word in said if (match := part.fullmatch(word))})
        if taken and taken != wanted:
            found.append(f"{title(other)}: takes parts {taken} of {title(job)}, which has {wanted}")
    return found
