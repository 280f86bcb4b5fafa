"""The arguments that vLLM's engine gets, for both kinds of machines; no engine is started."""

import os
from pathlib import Path
from typing import Any

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

from service.engine import vllm_engine as engine
from service.engine.engine_args import CPU_SEQUENCES, engine_args, number_format
from service.engine.vllm_engine import VLLMEngine
from service.machine.placement import Placement
from service.model_directory.quantised import UnservableError
from service.settings import Settings
from tests.models import edit_json, tiny_llama
from tests.quantised import FP8, INT8, REDUCED_INT8


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the engine's variables end with the test
    return tiny_llama(tmp_path / "model")


def arguments(model: Path, **values: Any) -> dict[str, Any]:
    settings = Settings(model=model, **values)
    return engine_args(settings, Placement(), number_format(settings).dtype)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)


def test_a_gpu_keeps_vllms_own_number_of_sequences_and_format(model: Path, on_a_gpu: None) -> None:
    taken = arguments(model)
    assert (taken["max_num_seqs"], taken["dtype"]) == (None, "auto")
    assert not taken["enforce_eager"]
    assert arguments(model, max_num_seqs=7)["max_num_seqs"] == 7


@pytest.mark.parametrize("settings", [INT8, REDUCED_INT8, FP8, None])
@pytest.mark.parametrize("is_blackwell", [True, False])
def test_int8_is_refused_on_blackwell(
    model: Path, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, settings: Any, is_blackwell: bool
) -> None:
    monkeypatch.setattr("service.settings.built_for_cpu", lambda: False)
    monkeypatch.setattr(
        type(current_platform), "has_device_capability", lambda self, least: is_blackwell
    )
    edit_json(model / "config.json", quantization_config=settings)
    if is_blackwell and settings in (INT8, REDUCED_INT8):
        with pytest.raises(UnservableError, match="Blackwell: quantise the original to fp8"):
            arguments(model)
    else:
        assert arguments(model)["model"] == str(model)


def test_a_cpu_gets_ours(model: Path) -> None:
    taken = arguments(model)
    assert taken["max_num_seqs"] == CPU_SEQUENCES
    assert taken["dtype"] in ("float32", "bfloat16")
    assert arguments(model, max_num_seqs=7, dtype="float16")["max_num_seqs"] == 7
    assert arguments(model, dtype="float16")["dtype"] == "float16"


class StartedError(Exception):
    """In place of an engine."""


def test_the_engine_is_built_as_a_server_whose_batches_are_read_back(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that usage context vLLM takes a quarter of the tokens a step on an H100."""
    contexts = []

    def from_engine_args(args: AsyncEngineArgs, usage_context: UsageContext) -> Any:
        contexts.append((args, usage_context))
        raise StartedError

    monkeypatch.setattr("service.engine.async_llm.PlacedLLM.from_engine_args", from_engine_args)
    monkeypatch.setattr(engine, "_import_openai", lambda: None)
    with pytest.raises(StartedError):
        VLLMEngine(Settings(model=model))._load()
    [(args, context)] = contexts
    assert context is UsageContext.OPENAI_API_SERVER
    tokens, sequences = args.get_batch_defaults(world_size=1)
    assert context in tokens
    assert context in sequences
