"""Model directories of 4 bits, of every kind: the files, what they stand for, and the errors."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from torch import nn
from transformers import AutoModelForCausalLM

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from tests.models import weights
from tests.training.gptq.dequantised import (
    PARTS,
    decompressed,
    layer_names,
    scheme_of,
    write_dequantised,
)
from tests.training.gptq.models import GROUP, KINDS, calibrated, write_kind
from training.data.formats import Layout
from training.files import sha256
from training.gptq.encoding import encoded
from training.gptq.rows import drawn_rows


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model; beside it int4, made of it, and the rows that it was calibrated on."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_kind(request.param, folder / "model")
    calibrated(model, folder / "int4")
    return model


def load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def linear_layers(model: Path) -> list[str]:
    modules = load(model).named_modules()
    return [n for n, each in modules if isinstance(each, nn.Linear) and n != "lm_head"]


def test_the_files_are_what_compressed_tensors_packs(model: Path) -> None:
    int4 = model.with_name("int4")
    stored, scheme = weights(int4), scheme_of(int4)
    assert sorted(layer_names(int4)) == sorted(linear_layers(model))
    assert PackedQuantizationCompressor.can_compress(nn.Linear, scheme)
    for layer in layer_names(int4):
        packed, scales, shape = (stored[f"{layer}.{name}"] for name in PARTS)
        original = weights(model)[f"{layer}.weight"]
        assert torch.Size(shape.tolist()) == original.shape
        assert scales.shape == (len(original), original.shape[1] // GROUP)
        assert scales.dtype == original.dtype
        codes = unpack_from_int32(packed, 4, original.shape)
        assert torch.equal(pack_to_int32(codes, 4), packed)
        values = {"weight": decompressed(int4)[f"{layer}.weight"], "weight_scale": scales.float()}
        again = PackedQuantizationCompressor.compress(values, scheme)
        assert torch.equal(again["weight_packed"], packed)


def test_all_else_stays_as_it_was(model: Path) -> None:
    int4 = model.with_name("int4")
    before, after = weights(model), weights(int4)
    layers = layer_names(int4)
    rest = before.keys() - {f"{layer}.weight" for layer in layers}
    assert after.keys() == rest | {f"{layer}.{part}" for layer in layers for part in PARTS}
    assert all(torch.equal(before[name], after[name]) for name in rest)
    old, new = (json.loads((path / "config.json").read_text()) for path in (model, int4))
    assert new.pop("quantization_config")["ignore"] == ["lm_head"]
    assert new == old
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (int4 / name).read_bytes() == (model / name).read_bytes()


def test_provenance_has_the_sums_and_where_it_came_from(model: Path) -> None:
    int4 = model.with_name("int4")
    told = json.loads((int4 / "provenance.json").read_text())
    assert told["files"] == {path.name: sha256(path) for path in int4.glob("*.safetensors")}
    assert told["calibration"]["data"]["sha256"] == sha256(model.with_name("rows.json"))
    assert told["calibration"]["samples"] == 24
    assert told["check"]["quantisation"].keys() == {*layer_names(int4)}


def test_a_layer_sees_what_the_rounded_ones_before_it_make(model: Path, tmp_path: Path) -> None:
    """Each layer's first error is what the whole model, loaded by transformers, says of it.

    Masks, positions and kinds of layers are then those of the model's class.
    """
    int4 = model.with_name("int4")
    told = json.loads((int4 / "provenance.json").read_text())["check"]["quantisation"]
    whole = load(write_dequantised(int4, tmp_path / "plain"))
    exact = weights(model)
    squares: dict[str, list[float]] = {}

    def take(name: str, module: nn.Linear, args: tuple[torch.Tensor, ...]) -> None:
        moved = args[0] @ (module.weight - exact[f"{name}.weight"].float()).T
        outputs = args[0] @ exact[f"{name}.weight"].float().T
        totals = squares.setdefault(name, [0.0, 0.0])
        totals[0] += float(moved.square().sum())
        totals[1] += float(outputs.square().sum())

    first = ("q_proj", "query_key_value")
    for name, module in whole.named_modules():
        if name.endswith(first):
            module.register_forward_pre_hook(partial(take, name))
    rows = drawn_rows(model.with_name("rows.json"), Layout(), 128, 42)
    with torch.no_grad():
        for ids in encoded(model, rows, 512, None):
            whole(input_ids=torch.tensor([ids]))
    assert len(squares) == whole.config.num_hidden_layers
    for name, (moved, outputs) in squares.items():
        assert told[name]["outputs"] == pytest.approx((moved / outputs) ** 0.5, rel=1e-3)


def test_transformers_loads_it(model: Path, tmp_path: Path) -> None:
    int4 = model.with_name("int4")
    loaded, plain = load(int4), load(write_dequantised(int4, tmp_path / "plain"))
    rows = drawn_rows(model.with_name("rows.json"), Layout(), 3, 1)
    for ids in encoded(model, rows, 512, None):
        with torch.no_grad():
            ours, theirs = (one(input_ids=torch.tensor([ids])).logits for one in (loaded, plain))
        assert torch.equal(ours, theirs)
