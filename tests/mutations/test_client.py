"""No command of the client ends in a traceback for anything in a file."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.evaluate import main as evaluate
from client.merge_shards import main as merge_shards
from client.post_generate_process import main as convert
from client.predict_testset import main as predict
from client.prediction.journal import _seal
from client.report import main as report
from client.score import main as score
from client.submission import main as submit
from tests.client.stub import Stub, running
from tests.mutations.mutate import ODD, ends_well, mutated
from tests.paths import SCORING

GOLD = SCORING / "v00_perfect.predictions.jsonl"
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "score": (score, ["--gold", "gold.json", "--predictions", "made.json"]),
    "structured": (score, ["--gold", "structured.json", "--predictions", "made.json"]),
    "report": (report, ["--gold", "gold.json", "--predictions", "made.json", "--output", "out"]),
    "submit": (submit, ["--test", "test.json", "--predictions", "made.json", "--output", "out"]),
    "convert": (convert, ["made.json", "out"]),
    "merge": (merge_shards, ["--input", "test.json", "--output", "out", "made.json"]),
}
READ = [
    (name, file)
    for name, (_, words) in COMMANDS.items()
    for file in words
    if file.endswith(".json")
]


def examples(count: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=count, deadline=None, derandomize=True, suppress_health_check=checks
    )


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with running(Stub()) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, stub: Stub) -> Path:
    """A benchmark of 24 rows: gold.json, structured.json, test.json, made.json and its journal."""
    folder = tmp_path_factory.mktemp("files")
    rows = [json.loads(line) for line in GOLD.read_text("utf-8").splitlines()][::8]
    write(folder / "gold.json", rows)
    write(folder / "test.json", [row | {"target": ""} for row in rows])
    assert convert([str(folder / "gold.json"), str(folder / "structured.json")]) == 0
    paths = ["--input", str(folder / "test.json"), "--output", str(folder / "made.json")]
    assert predict(["--url", stub.url, *paths]) == 0
    return folder


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def asked(stub: Stub, rows: Path, folder: Path) -> list[object]:
    """Arguments of a prediction whose output is made.json in `folder`."""
    options = ["--url", stub.url, "--model-wait", "5"]
    return [*options, "--input", rows, "--output", folder / "made.json"]


@pytest.mark.parametrize(("name", "file"), READ)
@examples(60)
@given(data=st.data())
def test_a_file_that_is_read(files: Path, name: str, file: str, data: st.DataObject) -> None:
    command, words = COMMANDS[name]
    (files / "out").unlink(missing_ok=True)
    arguments = [str(files / word) if word[0] != "-" else word for word in words]
    path = files / file
    ends_well(command, [*arguments], path, data.draw(mutated(path.read_bytes())))


@pytest.mark.parametrize("file", ["test.json", "made.json.journal"])
@examples(80)
@given(data=st.data())
def test_a_prediction(
    files: Path, stub: Stub, tmp_path: Path, file: str, data: st.DataObject
) -> None:
    for name in ("test.json", "made.json.journal"):
        shutil.copy(files / name, tmp_path / name)
    for name in ("made.json", "test.json.journal"):
        (tmp_path / name).unlink(missing_ok=True)
    path = tmp_path / file
    arguments = [*asked(stub, tmp_path / "test.json", tmp_path), "--retry-empty"]
    ends_well(predict, arguments, path, data.draw(mutated(path.read_bytes())))


@pytest.mark.parametrize("place", [0, 1, -1])
@examples(40)
@given(value=st.sampled_from(ODD), key=st.sampled_from(["index", "generated_text", "model", "x"]))
def test_a_journal_with_odd_values_under_right_sums(
    files: Path, stub: Stub, tmp_path: Path, place: int, value: object, key: str
) -> None:
    lines = (files / "made.json.journal").read_bytes().splitlines()
    entry = json.loads(lines[place])["entry"]
    try:
        lines[place] = _seal(entry | {key: value}).removesuffix(b"\n")
    except UnicodeEncodeError:
        return
    (tmp_path / "made.json").unlink(missing_ok=True)
    (tmp_path / "made.json.journal").write_bytes(b"")
    content = b"\n".join(lines) + b"\n"
    arguments = asked(stub, files / "test.json", tmp_path)
    ends_well(predict, arguments, tmp_path / "made.json.journal", content)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@examples(60)
@given(data=st.data())
def test_a_file_of_parameters(
    files: Path, stub: Stub, tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    path = (tmp_path / "parameters").with_suffix(suffix)
    path.write_text('{"max_tokens": 5, "stop": ["a", "b"], "logit_bias": {"5": 1.5}}')
    for name in ("made.json", "made.json.journal"):
        (tmp_path / name).unlink(missing_ok=True)
    arguments = [*asked(stub, files / "test.json", tmp_path), "--parameters", path]
    ends_well(predict, arguments, path, data.draw(mutated(path.read_bytes())))


@examples(30)
@given(data=st.data())
def test_gold_that_is_evaluated(
    files: Path, stub: Stub, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "gold.json"
    shutil.copy(files / "gold.json", path)
    shutil.rmtree(tmp_path / "evaluation", ignore_errors=True)
    arguments = ["--url", stub.url, "--gold", path, "--folder", tmp_path / "evaluation"]
    ends_well(evaluate, arguments, path, data.draw(mutated(path.read_bytes())))
