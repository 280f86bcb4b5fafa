"""A training job is started again with the same command line, on one node and on two.

The two are network namespaces that a cable joins, with a pod of k8s/'s train Job in each.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import render
from tests.paths import ROOT
from tests.programs import installed
from tests.training.conftest import write_recipe
from tests.training.train.test_distributed import furthest, losses
from training.train.__main__ import main

HOSTS = """\
127.0.0.1 localhost
10.213.0.1 train-0.train train-0
10.213.0.2 train-1.train train-1
"""
TRAINING = {"save_every": 20, "eval_every": 30, "optim": {"lr": 1e-3, "steps": 60, "batch_size": 4}}
ALONE_S = 60  # in which a node must end that has lost the other


@dataclass(frozen=True)
class Pod:
    """A pod under way, and the file that it prints into."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait(self, timeout: float = 180) -> int:
        """Its exit code. What has not ended is told with what runs and what it printed."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            command = ["ps", "-eo", "pid,ppid,etimes,stat,wchan:20,args", "--forest"]
            running = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            pytest.fail(f"{self.log.name} goes on after {timeout} s\n{running}\n{self.printed}")

    def kill(self) -> None:
        """SIGKILL for every process in it, as when it takes too much memory."""
        self.process.kill()
        self.process.wait()

    @property
    def printed(self) -> str:
        """All of it so far."""
        return self.log.read_text("utf-8", "replace")


@dataclass(frozen=True)
class Nodes:
    """Both nodes; what the Job's pods run in them; `folder` takes their logs."""

    names: list[str]
    container: dict[str, Any]
    folder: Path
    pods: list[Pod] = field(default_factory=list)

    def start(self, index: int, recipe: Path) -> Pod:
        """The pod of an index: its own processes, host name and network, the manifest's command."""
        own = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', f"train-{index}"]
        environment, command = self._manifest(index, recipe)
        # one thread each: two cores are no place for two times four
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment |= {"OMP_NUM_THREADS": "1"}
        log = self.folder / f"{len(self.pods)}-of-{index}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[index], *own, *named, *command],
                cwd=ROOT, stdout=file, stderr=file, env=environment,
            )  # fmt: skip
        self.pods.append(Pod(process, log))
        return self.pods[-1]

    def _manifest(self, index: int, recipe: Path) -> tuple[dict[str, str], list[str]]:
        """Environment and command as the Job's controller and the kubelet complete them."""
        environment = {entry["name"]: entry["value"] for entry in self.container["env"]}
        environment["JOB_COMPLETION_INDEX"] = str(index)
        parts = [*self.container["command"], *self.container["args"]]
        given = [re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], part) for part in parts]
        command = [part.replace("/config/recipe.yaml", str(recipe)) for part in given]
        assert command != given
        return environment, command

    def start_both(self, recipe: Path) -> list[Pod]:
        """Both pods at the same time."""
        return [self.start(index, recipe) for index in (0, 1)]


def cannot(reason: str) -> None:
    """Without what it takes the tests are skipped, but not in CI, where they fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def ip(*arguments: str) -> None:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        cannot(f"ip {' '.join(arguments)}: {ended.stderr.strip()}: no network namespaces here")


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network of its own, in which /etc/hosts knows the pods as the cluster's DNS does."""
    hosts = Path("/etc/netns") / name / "hosts"
    ip("netns", "add", name)
    try:
        hosts.parent.mkdir(parents=True)
        hosts.write_text(HOSTS)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        shutil.rmtree(hosts.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    installed("ip", "iproute2")
    installed("unshare", "util-linux")
    if os.geteuid() != 0:
        cannot("network namespaces need root")
    jobs = [item for item in render(ROOT / "k8s" / "overlays" / "train") if item["kind"] == "Job"]
    container = jobs[0]["spec"]["template"]["spec"]["containers"][0]
    with ExitStack() as stack:
        names = [f"nodes-{os.getpid()}-{index}" for index in (0, 1)]
        for name in names:
            stack.enter_context(namespace(name))
        cable = ["link", "add", "eth0", "netns", names[0], "type", "veth"]
        ip(*cable, "peer", "name", "eth0", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.213.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        made = Nodes(names, container, tmp_path_factory.mktemp("pods"))
        yield made
        for pod in made.pods:
            pod.kill()


def tiny_recipe(folder: Path, base_model: Path) -> Path:
    """A recipe without dropout, which is another in every process; output is `folder`/adapter."""
    recipe = write_recipe(folder, base_model)
    settings = yaml.safe_load(recipe.read_text("utf-8")) | TRAINING
    settings["lora"]["dropout"] = 0
    recipe.write_text(yaml.safe_dump(settings), "utf-8")
    return recipe


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Path:
    """The adapter of one process."""
    folder = tmp_path_factory.mktemp("one")
    command = [sys.executable, "-m", "training.train", "--config"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tiny_recipe(folder, base_model)], check=True, env=environment)
    return folder / "adapter"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes, base_model: Path) -> Path:
    """The adapter of two nodes, beside its recipe."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("two"), base_model)
    assert_ended(nodes.start_both(recipe), "adapter written to")
    return recipe.with_name("adapter")


def assert_ended(pods: list[Pod], words: str) -> None:
    """Both pods end well, and the first alone says so."""
    codes = [pod.wait() for pod in pods]
    printed = [pod.printed for pod in pods]
    assert codes == [0, 0], printed
    assert [text.count(words) for text in printed] == [1, 0], printed


def assert_same(adapter: Path, expected: Path) -> None:
    assert furthest(adapter, expected) <= 1e-5
    assert losses(adapter) == pytest.approx(losses(expected), abs=1e-4)
    assert len(losses(expected)) == 62


def test_two_nodes_equal_one_process(two: Path, one: Path) -> None:
    assert_same(two, one)


def test_a_finished_run_that_is_started_again_ends_well_and_changes_nothing(
    two: Path, nodes: Nodes
) -> None:
    before = {path: path.stat().st_mtime_ns for path in two.parent.rglob("*")}
    assert_ended(nodes.start_both(two.with_name("recipe.yaml")), "is trained already")
    assert {path: path.stat().st_mtime_ns for path in two.parent.rglob("*")} == before


def test_nodes_that_do_not_share_the_output_refuse_to_go_on(
    two: Path, nodes: Nodes, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "recipe.yaml"
    settings = yaml.safe_load(two.with_name("recipe.yaml").read_text("utf-8"))
    elsewhere.write_text(yaml.safe_dump(settings | {"output": str(tmp_path / "adapter")}), "utf-8")
    pods = [nodes.start(0, two.with_name("recipe.yaml")), nodes.start(1, elsewhere)]
    assert 0 not in [pod.wait() for pod in pods]
    for pod in pods:
        assert "(the adapter; no checkpoint, fp32): put the output into a folder" in pod.printed


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_killed_in_the_middle_ends_the_other_and_both_go_on_when_started_again(
    nodes: Nodes, one: Path, base_model: Path, tmp_path: Path, victim: int
) -> None:
    recipe, adapter = tiny_recipe(tmp_path, base_model), tmp_path / "adapter"
    pods = nodes.start_both(recipe)
    wait_for(tmp_path / "adapter.run" / "checkpoint-20", pods)
    pods[victim].kill()
    assert pods[1 - victim].wait(ALONE_S) != 0
    assert not adapter.exists(), "it was over before the kill: give it more steps"
    pods = nodes.start_both(recipe)
    assert_ended(pods, "adapter written to")
    assert re.search(r"resuming from \S+/checkpoint-[24]0\n", pods[0].printed)
    assert_same(adapter, one)


def wait_for(path: Path, pods: list[Pod]) -> None:
    while not path.exists():
        assert [pod.process.poll() for pod in pods] == [None, None], [pod.printed for pod in pods]
        time.sleep(0.01)


def test_a_run_is_begun_gone_on_with_or_left_as_it_is(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(recipe), "--resume-if-started"]
    for told in ("adapter written to", "is trained already", "is trained already"):
        assert main(command) == 0
        assert told in capfd.readouterr().out
    assert main([*command, "log_every=3"]) == 0  # which changes nothing of the adapter
    shutil.rmtree(tmp_path / "adapter")
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert f"resuming from {tmp_path}/adapter.run/checkpoint-6" in printed
    assert "adapter written to" in printed


def test_another_run_s_output_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(recipe), "--resume-if-started"]
    assert main(command) == 0
    assert main([*command, "lora.r=8"]) == 2
    assert f"{tmp_path}/adapter exists already: choose" in capsys.readouterr().err
    (tmp_path / "adapter" / "training.yaml").unlink()
    assert main(command) == 2
    shutil.rmtree(tmp_path / "adapter")
    assert main([*command, "lora.r=8"]) == 2
    assert "lora.r changed since it started" in capsys.readouterr().err


def test_only_one_way_to_go_on_can_be_asked_for(recipe: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(recipe), "--resume", "--resume-if-started"])
    assert stopped.value.code == 2
