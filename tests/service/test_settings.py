"""Every setting is a flag and a SERVICE_* variable."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.settings import Settings
from service.versions import built_for_cpu
from tests.hub import serve_hub
from tests.quantised import NO_KERNEL


def test_flags_win_over_variables(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_MODEL", str(settings.model))
    monkeypatch.setenv("SERVICE_PORT", "9001")
    monkeypatch.setenv("SERVICE_MAX_MODEL_LEN", "77")
    assert CliApp.run(Settings, cli_args=[]).port == 9001
    chosen = CliApp.run(Settings, cli_args=["--port", "9002"])
    assert (chosen.port, chosen.max_model_len) == (9002, 77)


def test_every_setting_is_in_the_help() -> None:
    text = _service("--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        (["--model", "/no/such/dir"], "no config.json"),
        (["--model", ".", "--port", "70000"], "--port"),
        (["--model", ".", "--prot", "1"], "--prot"),
    ],
)
def test_bad_settings_end_with_2_and_say_which(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    ended = _service(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr


def test_a_broken_config_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    ended = _service("--model", str(tmp_path))
    assert ended.returncode == 2
    assert "cannot be read as JSON" in ended.stderr


@pytest.mark.skipif(not built_for_cpu(), reason="what vLLM's kernels for CPUs lack")
@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ({"quantization_config": NO_KERNEL["W8A16"]}, (), "no kernel for such weights on a CPU"),
        ({"quantization_config": {"bits": 4}}, (), "its quantization_config cannot be read"),
        ({}, ("--kv-cache-dtype", "int8_per_token_head"), "wrong keys and values"),
        ({}, ("--engine-args", '{"quantization": "fp8"}'), "training.quantize --scheme int8"),
    ],
)
def test_what_no_kernel_computes_is_told_at_once(
    tmp_path: Path, config: dict[str, object], arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    ended = _service("--model", str(tmp_path), *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def _service(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SERVICE_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "modelscope:"])
def test_a_model_is_served_by_its_name_on_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text("{}")
    with serve_hub() as hub:
        hub.publish("org/a-model", published, "v2")
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, hub.url)
        for name in ("HF_HOME", "MODELSCOPE_CACHE", "MODELSCOPE_HOME"):
            monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        settings = Settings(model=f"{prefix}org/a-model@v2")
        assert (settings.model / "config.json").read_text() == "{}"
        assert settings.model_name == "a-model"
        with pytest.raises(ValidationError, match="org/a-model@v3 is no directory here"):
            Settings(model=f"{prefix}org/a-model@v3")
