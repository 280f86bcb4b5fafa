"""The process that imports for the engine's: what it hands over, and when it is not used."""

import os
from multiprocessing import forkserver
from pathlib import Path

import pytest

from service import ahead
from service.engine_args import built_for_cpu
from tests.service import spawned


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ahead.ImportsAhead:
    monkeypatch.setattr(os, "environ", {"LD_PRELOAD": "libgomp.so", "OMP_NUM_THREADS": "1"})
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    return ahead.ImportsAhead()


def test_it_is_used_while_only_variables_differ_that_can_still_be_set(
    imports: ahead.ImportsAhead,
) -> None:
    os.environ["VLLM_DISABLE_SHARED_EXPERTS_STREAM"] = "1"
    assert imports.context().get_start_method() == "forkserver"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_"])
def test_a_variable_that_it_could_not_take_back_has_vllm_spawn(
    imports: ahead.ImportsAhead, name: str
) -> None:
    os.environ[name] = "changed"
    assert imports.context().get_start_method() == "spawn"


def test_its_process_has_the_variables_of_its_start() -> None:
    assert spawned.set_after_the_fork_server("MERGELINE_TEST", "later") == "later"


@pytest.mark.parametrize("before", ["", "/lib/other.so"])
def test_all_libraries_get_the_openmp_of_torch(
    monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(os, "environ", {"LD_PRELOAD": before})
    ahead.share_openmp()
    *first, last = os.environ["LD_PRELOAD"].split(":")
    assert first == [before] * bool(before)
    assert Path(last).is_file()
    ahead.share_openmp()
    assert os.environ["LD_PRELOAD"].endswith(last)
    assert len(os.environ["LD_PRELOAD"].split(":")) == len(first) + 1


def test_nothing_of_it_stays_on_the_disk(
    imports: ahead.ImportsAhead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "sockets"
    monkeypatch.setattr(ahead, "get_temp_dir", lambda: str(folder))
    folder.mkdir()
    (folder / "listener").touch()
    imports.close()
    assert not folder.exists()
    imports.close()


def test_the_build_of_vllm_is_known_without_importing_it() -> None:
    from vllm.platforms import current_platform

    assert built_for_cpu() == current_platform.is_cpu()
