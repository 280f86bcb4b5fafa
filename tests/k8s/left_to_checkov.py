"""Mistakes that are left to checkov: .ci/manifests makes each of them, and checkov must notice."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.k8s.changes import BALANCER, GONE, POD, SERVE, VERIFY, change

CONTEXT = f"{SERVE} securityContext"

# where the mistake is, the value there, checkov's name of it
LEFT: list[tuple[str, object, str]] = [
    (f"{POD} automountServiceAccountToken", True, "CKV_K8S_38"),
    (f"{POD} hostIPC", True, "CKV_K8S_18"),
    (f"{SERVE} ports http hostPort", 8000, "CKV_K8S_26"),
    (f"{POD} securityContext runAsUser", "mergeline", "CKV_K8S_40"),
    (f"{POD} securityContext seccompProfile", GONE, "CKV_K8S_31"),
    (f"{VERIFY} securityContext readOnlyRootFilesystem", False, "CKV_K8S_22"),
    (f"{CONTEXT} runAsUser", 0, "CKV_K8S_40"),
    (f"{CONTEXT} allowPrivilegeEscalation", GONE, "CKV_K8S_20"),
    (f"{CONTEXT} capabilities drop", ["NET_RAW"], "CKV_K8S_37"),
    (f"{CONTEXT} capabilities add", ["SYS_PTRACE"], "CKV_K8S_25"),
    (f"{CONTEXT} privileged", True, "CKV_K8S_16"),
    (f"{SERVE} image", "mergeline-engine", "CKV_K8S_14"),
    (
        f"{BALANCER} containers balancer image",
        "example:5000/mergeline-balancer:latest",
        "CKV_K8S_14",
    ),
    # .ci/manifests makes pods of a group's templates
    ("Pod/group-worker spec containers serve securityContext", GONE, "CKV_K8S_37"),
]


def unnoticed(manifests: Path, broken: Path) -> list[str]:
    """What checkov passes of LEFT; `manifests`: what it has passed, a file an overlay."""
    for number, (place, value, _) in enumerate(LEFT):
        overlay = "multi-node" if "group" in place else "gpu"
        objects = [*yaml.safe_load_all((manifests / f"{overlay}.yaml").read_text("utf-8"))]
        (broken / f"{number}.yaml").write_text(yaml.safe_dump(change(objects, place, value)))
    checkov = str(Path(sys.executable).with_name("checkov"))
    options = ["--config-file", ".ci/checkov.yaml", "--directory", str(broken), "--output", "json"]
    run = subprocess.run([checkov, *options], stdout=subprocess.PIPE, check=False)
    failed = json.loads(run.stdout)["results"]["failed_checks"]
    noticed = {(Path(each["file_path"]).stem, each["check_id"]) for each in failed}
    return [
        f"{place}: {value!r} ({name})"
        for number, (place, value, name) in enumerate(LEFT)
        if (str(number), name) not in noticed
    ]


if __name__ == "__main__":
    sys.exit("\n".join(unnoticed(Path(sys.argv[1]), Path(sys.argv[2]))) or 0)
