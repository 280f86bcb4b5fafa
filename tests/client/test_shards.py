"""A test set in parts: what a run selects, and shards put together again."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.errors import InputError
from client.merge_shards import main as merge
from client.predict_testset import main as predict_testset
from client.prediction.job import Job, predict
from client.prediction.selection import Selection
from tests.client.conftest import read_output, rows, write_input
from tests.client.stub import Stub

MakeJob = Callable[..., Job]
TASKS = [{"task_dataset": name} for name in "aabbaacc"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """predict_testset sets its own, for the whole process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        (Selection(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Selection(limit=3), [0, 1, 2]),
        (Selection(shard=(1, 3)), [1, 4, 7]),
        (Selection(tasks=("c", "a")), [0, 1, 4, 5, 6, 7]),
        (Selection(tasks=("a",), shard=(1, 2), limit=1), [1]),
    ],
)
def test_what_is_selected(selection: Selection, indices: list[int]) -> None:
    assert selection.indices(TASKS) == indices


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(tasks=("a", "x")), "the input has no row of x; it has a, b, c"),
        (Selection(shard=(8, 9)), "--shard 8/9 holds no row"),
    ],
)
def test_a_selection_of_nothing_is_refused(selection: Selection, words: str) -> None:
    with pytest.raises(InputError, match=words):
        selection.indices(TASKS)


def test_only_the_selected_rows_are_asked_and_a_wider_run_goes_on(job: MakeJob, stub: Stub) -> None:
    assert not predict(job(selection=Selection(limit=5)))
    assert len(stub.asked) == 5
    assert [row["input"] for row in read_output(job().output)] == stub.asked[:5]
    assert not predict(job())
    assert len(stub.asked) == 40
    assert len(read_output(job().output)) == 40


@pytest.fixture
def shards(tmp_path: Path, stub: Stub) -> list[Path]:
    """Three, of 40 rows, by the command line."""
    write_input(tmp_path / "test.json", 40)
    outputs = [tmp_path / f"shard-{index}.json" for index in range(3)]
    for index, output in enumerate(outputs):
        assert predict_testset([
            "--url", stub.url, "--input", str(tmp_path / "test.json"), "--output", str(output),
            "--shard", f"{index}/3",
        ]) == 0  # fmt: skip
    return outputs


def merged(folder: Path, *shards: Path) -> int:
    whole = str(folder / "whole.json")
    return merge(["--input", str(folder / "test.json"), "--output", whole, *map(str, shards)])


def test_merged_shards_equal_one_run(
    shards: list[Path], job: MakeJob, tmp_path: Path, stub: Stub
) -> None:
    assert sorted(stub.asked) == sorted(str(row["input"]) for row in rows(40))
    assert not predict(job())
    assert merged(tmp_path, *reversed(shards)) == 0
    assert (tmp_path / "whole.json").read_bytes() == job().output.read_bytes()


def test_shards_that_make_no_whole_are_refused(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = shards
    for wrong in ([first, second], [first, second, second], [first], [tmp_path / "none"]):
        assert merged(tmp_path, *wrong) == 2
        assert capsys.readouterr().err.startswith("error: ")
    third.write_bytes(third.read_bytes().replace("问题".encode(), "题目".encode(), 1))
    assert merged(tmp_path, *shards) == 2
    assert "shard-2.json is not one of 3 shards of the input" in capsys.readouterr().err
    assert not (tmp_path / "whole.json").exists()


def test_a_merge_never_replaces_what_it_reads(shards: list[Path], tmp_path: Path) -> None:
    whole = tmp_path / "test.json"
    for output in (whole, shards[0]):
        before = output.read_bytes()
        assert merge(["--input", str(whole), "--output", str(output), *map(str, shards)]) == 2
        assert output.read_bytes() == before


def test_shards_of_different_models_are_refused(
    shards: list[Path], tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.model = "other"
    options = ["--url", stub.url, "--input", str(tmp_path / "test.json"), "--restart"]
    assert predict_testset([*options, "--output", str(shards[1]), "--shard", "1/3"]) == 0
    assert merged(tmp_path, *shards) == 2
    told = capsys.readouterr().err
    assert "different runs" in told
    assert '"model": "other"' in told
    for shard in shards:  # without their journals nobody can tell
        shard.with_name(shard.name + ".journal").unlink()
    assert merged(tmp_path, *shards) == 0


def test_a_merge_waits_for_the_shards_that_are_still_written(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late, aside = shards[1], tmp_path / "aside"
    late.rename(aside)
    options = ["--wait", "0.1", "--input", str(tmp_path / "test.json")]
    options += ["--output", str(tmp_path / "whole.json"), *map(str, shards)]
    assert merge(options) == 2
    assert "not there after 0.1 s: " + str(late) in capsys.readouterr().err
    threading.Timer(0.5, aside.rename, [late]).start()
    assert merge(["--wait", "60", *options[2:]]) == 0
    assert len((tmp_path / "whole.json").read_bytes().splitlines()) == 40


@pytest.mark.parametrize("text", ["3/3", "1", "1/", "/3", "a/3", "-1/3"])
def test_a_shard_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        predict_testset([f"--shard={text}"])
    assert "expected I/N" in capsys.readouterr().err
