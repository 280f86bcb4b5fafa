"""`python -m service.integrity` lets a whole model pass, and says of any other what is wrong."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from service import integrity
from service.integrity import main
from tests.chatglm import converted_base, random_prefix
from tests.models import edit_json, tiny_adapter, tiny_llama

WEIGHTS = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
NOBODY = 65534


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.merge.job import WeightsFormat, merge

    root = tmp_path_factory.mktemp("merged")
    base = tiny_llama(root / "base")
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (base / "chat_template.jinja").write_text("{{ messages }}")
    adapter = tiny_adapter(base, root / "adapter")
    merge(base, [adapter], root / "model", WeightsFormat(max_shard_size=30_000))
    return root / "model"


@pytest.fixture
def model(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "model"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The words of an ended check, which must have been in vain."""
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    return printed.err


def test_a_merged_model_passes_with_one_line(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model)]) == 0
    count = len(list(model.iterdir())) - 1  # provenance.json cannot hold its own sum
    assert capsys.readouterr().out == f"{model}: {count} files, 0.00 GB, as provenance.json says\n"


def test_every_file_of_a_model_with_a_prefix_is_covered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.merge.job import merge

    base, model = converted_base(tmp_path / "base"), tmp_path / "model"
    merge(base, [random_prefix(base, tmp_path / "prefix", 3, projection=False)], model)
    assert main([str(base)]) == main([str(model)]) == 0
    capsys.readouterr()
    files = [path for path in model.rglob("*") if path.is_file() and path.stem != "provenance"]
    assert model / "prefix/prefix.safetensors" in files
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{path.relative_to(model)} is not what" in refusal(capsys, model)
        path.write_bytes(whole)


def set_names(model: Path, key: str, *names: str) -> None:
    """Let provenance.json list further names, with a sum that stands for them."""
    told = json.loads((model / "provenance.json").read_text())
    told[key] |= dict.fromkeys(names, "0" * 64)
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(told["files"].items()))
    told["sha256"] = sha256(listing.encode()).hexdigest()
    (model / "provenance.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is no directory"),
        (lambda m: (m / "provenance.json").unlink(), "has no provenance.json"),
        (lambda m: (m / "provenance.json").write_text("{"), "cannot be read as JSON"),
        (lambda m: (m / "provenance.json").write_bytes(b"\xff"), "cannot be read as JSON"),
        (lambda m: (m / "provenance.json").write_text("[]"), "holds no JSON object"),
        (lambda m: (m / "provenance.json").write_text("{}"), "files must map"),
        (lambda m: edit_json(m / "provenance.json", files={}), "files must map"),
        (lambda m: edit_json(m / "provenance.json", files={WEIGHTS: 1}), "files must map"),
        (lambda m: edit_json(m / "provenance.json", other_files=[]), "other_files must map"),
        (lambda m: edit_json(m / "provenance.json", sha256="0"), "sha256 does not stand for"),
        (lambda m: (m / WEIGHTS).unlink(), f"{WEIGHTS} is missing: copy the model"),
        (lambda m: (m / WEIGHTS).write_bytes(b""), f"{WEIGHTS} is not what"),
        (lambda m: (m / "config.json").write_text("{}"), "config.json is not what"),
        (lambda m: shutil.copy(m / WEIGHTS, m / "x.safetensors"), "x.safetensors is not in prov"),
        (lambda m: (m / "added_tokens.json").write_text("{}"), "added_tokens.json is not in prov"),
        (lambda m: edit_json(m / INDEX, weight_map={"w": "y.safetensors"}), "y.safetensors is n"),
        (lambda m: edit_json(m / INDEX, weight_map=None), "has no weight_map"),
        (lambda m: set_names(m, "files", "../base/model.safetensors"), "names '../base/model"),
        (lambda m: set_names(m, "files", "prefix/x.safetensors"), "names 'prefix/x.safetensors'"),
        (lambda m: set_names(m, "files", "config.json"), "names 'config.json'"),
        (lambda m: set_names(m, "other_files", "a/../../base/config.json"), "names 'a/../../base"),
        (lambda m: set_names(m, "other_files", "/etc/hostname"), "names '/etc/hostname'"),
        (lambda m: set_names(m, "other_files", "x\0"), "is missing"),
    ],
)
def test_what_is_wrong_is_told(
    model: Path, damage: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    told = refusal(capsys, model)
    assert words in told
    assert str(model) in told


def test_many_damaged_files_are_told_at_once(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in model.glob("*.safetensors"):
        path.write_bytes(b"")
    assert f"{WEIGHTS}, model-00003-of" in refusal(capsys, model)


def test_hidden_files_and_what_is_mounted_empty_are_no_damage(model: Path) -> None:
    (model / ".cache").mkdir()
    (model / ".cache" / "x.safetensors").touch()
    (model / "lost+found").mkdir(mode=0o700)
    assert main([str(model)]) == 0


def test_files_may_be_links_as_in_the_hubs_cache_and_in_volumes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = Path(shutil.move(model, tmp_path / "blobs"))
    model.mkdir()
    for path in blobs.iterdir():
        (model / path.name).symlink_to(path)
    assert main([str(model)]) == 0
    capsys.readouterr()
    (blobs / WEIGHTS).unlink()
    assert f"{WEIGHTS} is missing" in refusal(capsys, model)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Not root for a while: whom nothing is forbidden to sees no refusal."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [WEIGHTS, "provenance.json", "."])
def test_a_file_that_only_its_writer_may_read_is_told(
    merged: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        model = Path(shutil.copytree(merged, Path(folder) / "model"))
        (model / name).chmod(0o600 if os.geteuid() == 0 else 0)
        with as_another_user():
            told = refusal(capsys, model)
        (model / name).chmod(0o700)
    assert "Permission denied" in told
    assert f"chmod -R a+rX {model}" in told


def test_a_provenance_from_before_passes_and_says_what_it_does_not_cover(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((model / "provenance.json").read_text())
    del told["other_files"]
    (model / "provenance.json").write_text(json.dumps(told))
    (model / "config.json").write_text("{}")
    assert main([str(model)]) == 0
    assert "note: provenance.json covers the weights only" in capsys.readouterr().out
    (model / "x.safetensors").touch()
    assert "x.safetensors is not in provenance.json" in refusal(capsys, model)


def test_a_recorded_model_is_verified_from_then_on(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = json.loads((model / "provenance.json").read_text())
    (model / "provenance.json").unlink()
    assert main([str(model), "--record"]) == 0
    assert capsys.readouterr().out.endswith("recorded in provenance.json\n")
    recorded = json.loads((model / "provenance.json").read_text())
    assert "recorded as found" in recorded.pop("note")
    assert recorded == {key: merged[key] for key in ("files", "other_files", "sha256")}
    assert (model / "provenance.json").stat().st_mode & 0o777 == 0o644
    assert not list(model.glob(".*"))
    assert main([str(model)]) == 0
    capsys.readouterr()
    assert "exists already" in refusal(capsys, model, "--record")


def test_no_half_of_a_model_is_recorded(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "provenance.json").unlink()
    (model / WEIGHTS).unlink()
    assert f"{WEIGHTS} is named there but missing" in refusal(capsys, model, "--record")
    for path in model.glob("model*"):
        path.unlink()
    assert "has no *.safetensors" in refusal(capsys, model, "--record")
    assert "is no directory" in refusal(capsys, model / "deeper", "--record")
    assert not (model / "provenance.json").exists()


def test_a_record_that_cannot_be_written_leaves_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (model / "provenance.json").unlink()
    monkeypatch.setattr(Path, "chmod", full)
    assert "No space left" in refusal(capsys, model, "--record")
    assert not list(model.glob("*prov*"))


def test_a_long_check_tells_how_far_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(integrity, "PERIOD_S", 0.0)
    assert main([str(model)]) == 0
    assert "0.0 of 0.0 GB read\n" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False])
def test_the_model_is_that_of_the_service_unless_told(model: Path, given: bool) -> None:
    environment = os.environ | {"SERVICE_MODEL": str(model)}
    if not given:
        del environment["SERVICE_MODEL"]
    ended = subprocess.run(
        [sys.executable, "-m", "service.integrity"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, "MODEL" in ended.stderr) == ((0, False) if given else (2, True))
