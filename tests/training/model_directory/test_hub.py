"""Models and adapters by name, from a small hub on this machine that speaks as both hubs do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, commit, serve_hub
from tests.models import tiny_adapter, tiny_llama, weights
from training.errors import TrainingError
from training.files import sha256
from training.merge.__main__ import main as merge
from training.model_directory import hub as hub_names
from training.model_directory.hub import local_directory, public_name, weights_sums


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that has org/base at main and at v2, and org/adapter; with code among the files."""
    folder = tmp_path_factory.mktemp("published")
    for name, seed in (("base", 0), ("v2", 7)):
        tiny_llama(folder / name, seed=seed)
        (folder / name / "modeling_evil.py").write_text("raise SystemExit")
        (folder / name / "original").mkdir()
        (folder / name / "original/consolidated.safetensors").write_bytes(b"twice")
    tiny_adapter(folder / "base", folder / "adapter")
    with serve_hub() as hub:
        hub.publish("org/base", folder / "base")
        hub.publish("org/base", folder / "v2", "v2")
        hub.publish("org/adapter", folder / "adapter")
        yield hub


def run(
    hub: Hub, folder: Path, module: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run a command with both hubs' addresses and caches turned to `hub` and `folder`."""
    settings = {
        **{"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "0"},
        **{"MODELSCOPE_ENDPOINT": hub.url, "MODELSCOPE_CACHE": f"{folder}/ms"},
        "MODELSCOPE_HOME": f"{folder}/ms-home",
    }
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_directory_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_directory("org/name") == Path("org/name")


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "/a/b",
        "./a",
        "../a",
        "a/b/c",
        "~/a",
        "",
        "org/",
        "s3:a/b",
        "a/b@",
        "a@b",
        "a/b@c d",
    ],
)
def test_what_is_no_hub_name_is_taken_as_a_path(name: str) -> None:
    assert local_directory(name) == Path(name)


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
@pytest.mark.parametrize(
    ("revision", "seed_of"), [("", "main"), ("@v2", "v2"), (f"@{commit('v2')}", "v2")]
)
def test_data_alone_is_downloaded_of_the_revision_that_is_named(
    hub: Hub, tmp_path: Path, prefix: str, revision: str, seed_of: str
) -> None:
    ended = run(hub, tmp_path, "training.model_directory.hub", f"{prefix}org/base{revision}")
    assert ended.returncode == 0, ended.stderr
    directory = Path(ended.stdout.strip())
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
    assert found == {"config.json", "generation_config.json", "model.safetensors"}
    published = hub.repositories["org/base", seed_of]["model.safetensors"]
    assert (directory / "model.safetensors").read_bytes() == published
    assert public_name(directory).startswith(f"{prefix}org/base@")
    assert weights_sums(directory) == {"model.safetensors": sha256(directory / "model.safetensors")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/none", "HF_ENDPOINT and, for a repository behind a licence, HF_TOKEN"),
        ("org/base@v3", "org/base@v3 is no directory here, and the Hugging Face hub did not give"),
        ("modelscope:org/none", "and ModelScope did not give it"),
        ("modelscope:org/base@v3", "org/base@v3 is no directory here, and ModelScope"),
    ],
)
def test_a_hub_that_does_not_give_it_is_a_clear_refusal(
    hub: Hub, tmp_path: Path, name: str, words: str
) -> None:
    arguments = ["--base", name, "--adapter", "a", "--output", tmp_path / "out"]
    ended = run(hub, tmp_path, "training.merge", *arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert words in ended.stderr


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_a_hub_out_of_reach_is_a_clear_refusal(tmp_path: Path, prefix: str) -> None:
    nowhere = Hub()
    nowhere.url = "http://127.0.0.1:9"
    ended = run(nowhere, tmp_path, "training.model_directory.hub", f"{prefix}org/base")
    assert ended.returncode == 2
    assert "error: org/base is no directory here" in ended.stderr.splitlines()[-1]


def test_without_modelscope_s_client_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(TrainingError, match="pip install modelscope-hub"):
        local_directory("modelscope:org/base")


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_base_and_adapter_are_merged_by_name_and_provenance_keeps_their_sums(
    hub: Hub, tmp_path: Path, prefix: str
) -> None:
    names = [f"{prefix}org/{name}" for name in ("base", "adapter")]
    ended = run(
        hub, tmp_path, "training.merge",
        *("--base", names[0], "--adapter", names[1], "--output", tmp_path / "out"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    provenance = json.loads((tmp_path / "out/provenance.json").read_text())
    assert provenance["base"]["name"].startswith(f"{names[0]}@")
    (digest,) = provenance["base"]["files"].values()
    (base,) = tmp_path.glob("*/**/*base/snapshots/*")
    assert digest == sha256(base / "model.safetensors")
    assert provenance["adapters"][0]["name"].startswith(f"{names[1]}@")
    assert not list((tmp_path / "out").glob("*.py"))


def test_convert_and_train_take_names_too(hub: Hub, tmp_path: Path) -> None:
    arguments = ["hf", "--input", "org/base@v2", "--output", tmp_path / "out"]
    ended = run(hub, tmp_path, "training.convert", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert weights(tmp_path / "out").keys()
    (tmp_path / "rows.json").write_text(json.dumps({"input": "a", "target": "b"}))
    ended = run(
        hub, tmp_path, "training.train", "--config", "llama_lora",
        *("model=org/base@v2", f"output={tmp_path}/a", f"data.train={tmp_path}/rows.json"),
        "data.eval=null",
    )  # fmt: skip
    assert ended.returncode == 2  # it was found: what it lacks is a tokenizer
    assert f"snapshots/{commit('v2')}: no tokenizer.json in it" in ended.stderr


def test_without_a_network_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    arguments = ["--base", "no-such-org/no-model", "--adapter", "a", "--output", "o"]
    assert merge(arguments) == 2
    assert "error: no-such-org/no-model is no directory here" in capsys.readouterr().err
    assert hub_names.main(["no-such-org/no-model"]) == 2


def test_what_came_from_a_hub_is_called_by_its_name_there() -> None:
    snapshot = Path("/cache/hub/models--org--a-name/snapshots/0123abc")
    assert public_name(snapshot) == "org/a-name@0123abc"
    scope = Path("/cache/modelscope/models/org--a-name/snapshots/master")
    assert public_name(scope) == "modelscope:org/a-name@master"
    assert public_name(Path("/models/llama-7b")) == "llama-7b"
