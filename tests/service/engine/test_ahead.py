"""The process that imports for the engine's: what it hands over, and when it is not used."""

import os
import re
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from service.engine import ahead
from service.versions import built_for_cpu
from tests.models import tiny_llama


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ahead.ImportsAhead:
    monkeypatch.setattr(os, "environ", {"LD_PRELOAD": "libgomp.so", "OMP_NUM_THREADS": "1"})
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(forkserver, "set_forkserver_preload", lambda modules: None)
    return ahead.ImportsAhead()


def test_it_is_used_while_only_variables_differ_that_can_still_be_set(
    imports: ahead.ImportsAhead,
) -> None:
    os.environ["VLLM_DISABLE_SHARED_EXPERTS_STREAM"] = "1"
    assert imports.context().get_start_method() == "forkserver"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_"])
def test_a_variable_that_it_could_not_take_back_has_vllm_spawn(
    imports: ahead.ImportsAhead, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.environ[name] = "changed"
    with caplog.at_level("WARNING"):
        assert imports.context().get_start_method() == "spawn"
    assert f"slower start: {name} changed" in caplog.text


def test_what_it_imports_starts_no_thread() -> None:
    """A fork of a process of several threads may wait for ever for what another held."""
    code = "import os, service.engine.forked; print(len(os.listdir('/proc/self/task')))"
    assert printed(code, OMP_NUM_THREADS="4", OPENBLAS_NUM_THREADS="1") == "1"


def test_its_process_has_the_variables_of_its_start() -> None:
    code = (
        "from tests.service.engine.spawned import set_after_the_fork_server as s\n"
        "print(s('X', 'later'))"
    )
    assert printed(code) == "later"


def printed(code: str, **variables: str) -> str:
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **variables}
    return subprocess.check_output(command, env=environment, text=True).strip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "tcmalloc gomp"),
        ("/lib/other.so", "tcmalloc other gomp"),
        ("/lib/libiomp5.so", "tcmalloc iomp"),
        ("/lib/libtcmalloc.so:/lib/libomp.so", "tcmalloc omp"),
    ],
)
def test_the_libraries_are_those_that_vllm_chooses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str, after: str
) -> None:
    for name in ("torch/lib/libgomp.so.1", "vllm/libs/libtcmalloc_minimal.so.4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "environ", {"LD_PRELOAD": before})
    monkeypatch.setattr(ahead, "_folder", lambda package: tmp_path / package)
    for _ in range(2):  # the second time nothing is added
        ahead.preload_libraries()
        found = re.findall(r"/(?:lib)?(tcmalloc|[gi]?omp|other)[^/]*", os.environ["LD_PRELOAD"])
        assert " ".join(found) == after


def test_vllm_adds_nothing_to_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else it would begin the engine's process anew, at every start."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    ahead.preload_libraries()
    before = os.environ["LD_PRELOAD"]
    arguments = AsyncEngineArgs(model=str(tiny_llama(tmp_path / "model")))
    arguments.create_engine_config()
    assert os.environ["LD_PRELOAD"] == before


def test_the_build_of_vllm_is_known_without_importing_it() -> None:
    assert built_for_cpu() == current_platform.is_cpu()
