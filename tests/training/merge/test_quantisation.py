"""Weights quantised while merging: the nearest codes to the exact sum, and what refuses it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from service.model_directory.quantised import read_quantised
from tests.chatglm import GOLDEN, converted_base
from tests.families import FAMILIES, write_family
from tests.models import edit_weights, tiny_adapter, tiny_llama, weights
from tests.training.convert.chatglm2_release import write_release
from tests.training.merge.exact import merged_exactly, nearest
from training.convert.chatglm.conversion import convert_chatglm
from training.errors import TrainingError
from training.merge.__main__ import main
from training.merge.job import MergeReport, WeightsFormat, merge
from training.merge.quantisation import Quantisation
from training.merge.verdict import PROMPTS
from training.model_directory.directory import PLAIN
from training.quantize import main as quantize
from training.weights.quantising import REDUCED, SCHEMES, quantise

SCALE = ".weight_scale"
ENDS = ("embed_tokens", "lm_head", "word_embeddings")


def llama(folder: Path, **config: Any) -> Path:
    return tiny_llama(folder, dtype="float16", num_hidden_layers=3, **config)


def chatglm2(folder: Path) -> Path:
    torch.manual_seed(0)
    convert_chatglm(write_release(folder.parent / "hub", "chatglm2"), folder)
    return folder


BASES: dict[str, Callable[[Path], Path]] = {
    "llama": llama,
    "tied llama": lambda folder: llama(folder, tie_word_embeddings=True),
    "sharded llama": lambda folder: llama(folder, max_shard_size="20KB"),
    "qwen3": lambda folder: write_family("qwen3", folder),
    "glm4": lambda folder: write_family("glm4", folder),
    "chatglm2": chatglm2,
    "chatglm-6b": converted_base,
}


@pytest.fixture(params=BASES, ids=lambda name: name.replace(" ", "-"))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A base and two adapters on all of its linear layers."""
    base = BASES[request.param](tmp_path / "base")
    lora: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return base, [tiny_adapter(base, tmp_path / f"{n}", n, std=0.02, **lora) for n in (1, 2)]


def quantised(
    base: Path, adapters: list[Path], output: Path, scheme: str = "int8", **more: Any
) -> MergeReport:
    prompts = more.pop("prompts", ())
    wanted = WeightsFormat(quantisation=Quantisation.of(scheme, **more))
    return merge(base, adapters, output, wanted, prompts)


def test_each_weight_is_the_nearest_int8_to_the_exact_sum(
    pair: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    base, adapters = pair
    exact = merged_exactly(base, adapters, 2.0)
    quantised(base, adapters, tmp_path / "out")
    written = weights(tmp_path / "out")
    scaled = {name.removesuffix(SCALE) for name in written if name.endswith(SCALE)}
    assert len(scaled) >= 7
    for name, values in exact.items():
        layer = name.removesuffix(".weight")
        if layer not in scaled:
            assert torch.equal(written[name], nearest(values, weights(base)[name].dtype)), name
            continue
        rows = values.numpy()
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        codes = np.rint(rows / scales.astype(np.float64)[:, None]).clip(-127, 127)
        assert written[layer + SCALE].shape == (len(rows), 1)
        assert (written[layer + SCALE].numpy()[:, 0] == scales).all(), name
        assert written[name].dtype == torch.int8
        assert (written[name].numpy() == codes).all(), name
    left = {name for name in exact if name.removesuffix(".weight") not in scaled}
    matrices = {name for name in left if exact[name].dim() == 2}
    assert all(any(end in name for end in ENDS) for name in matrices), matrices


def test_merging_before_quantising_gives_other_codes(
    pair: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    base, adapters = pair
    quantised(base, adapters, tmp_path / "once")
    merge(base, adapters, tmp_path / "merged", WeightsFormat("float16"))
    quantised(tmp_path / "merged", [], tmp_path / "twice")
    once, twice = weights(tmp_path / "once"), weights(tmp_path / "twice")
    codes = [name for name, tensor in once.items() if tensor.dtype == torch.int8]
    count = sum(once[name].numel() for name in codes)
    differ = sum(int((once[name] != twice[name]).sum()) for name in codes)
    print(f"rounded to float16 first, {differ} of {count} codes differ ({differ / count:.2%})")
    assert 0 < differ < count / 20


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_verified_against_base_and_adapters(
    pair: tuple[Path, list[Path]], tmp_path: Path, scheme: str
) -> None:
    base, adapters = pair
    report = quantised(base, adapters[:1], tmp_path / "out", scheme, prompts=PROMPTS)
    assert report.verdict
    assert 0 < report.verdict.max_difference <= report.verdict.allowed
    told = json.loads((tmp_path / "out/provenance.json").read_text())["check"]
    assert told["verify"]["same_token"] == report.verdict.same_token
    errors = told["quantisation"]
    assert len(errors) == len(report.errors)
    most = 0.01 if scheme == "int8" else 0.04
    assert all(0 < error < most for error in errors.values())


def test_config_json_speaks_the_words_of_compressed_tensors(
    pair: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    from compressed_tensors.quantization import QuantizationConfig

    base, _ = pair
    quantised(base, [], tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    read = QuantizationConfig.model_validate(
        {name: value for name, value in config.items() if name != "kv_cache_scheme"}
    )
    group = read.config_groups["group_0"]
    assert group.weights.num_bits == group.input_activations.num_bits == 8
    assert (group.weights.strategy, group.input_activations.strategy) == ("channel", "token")
    assert group.input_activations.dynamic
    assert config["ignore"] == ["lm_head"]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_directory_without_adapter_is_quantised_by_its_own_command(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str, *, clip: bool
) -> None:
    command = ["--model", str(base), "--output", str(tmp_path / "out"), "--scheme", scheme]
    assert quantize([*command, *(["--clip"] if clip else [])]) == 0
    assert "layers quantised, their weights moved by" in capsys.readouterr().out
    name = "model.layers.0.mlp.up_proj"
    made = quantise(weights(base)[f"{name}.weight"].double().numpy(), SCHEMES[scheme], clip=clip)
    written = weights(tmp_path / "out")
    assert (written[name + SCALE].numpy()[:, 0] == made.scales).all()
    assert (written[f"{name}.weight"].view(torch.uint8).numpy() == made.codes).all()


def test_layers_left_alone_are_listed_and_stay_as_they_were(base: Path, tmp_path: Path) -> None:
    ignored = (r"layers\.0\.mlp", "self_attn.[qkv]_proj")
    quantised(base, [], tmp_path / "out", ignore=ignored)
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    written, before = weights(tmp_path / "out"), weights(base)
    left = [name.removesuffix(".weight") for name in written if name + SCALE[7:] not in written]
    for name in config["ignore"][1:]:
        assert torch.equal(written[f"{name}.weight"], before[f"{name}.weight"])
    assert {"model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"} <= {
        *config["ignore"]
    } & {*left}
    assert "model.layers.1.mlp.down_proj" not in config["ignore"]


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("q_proj", "together with .*k_proj.*v_proj"),
        ("layers.0.mlp.up", "together with .*gate_proj"),
        ("attention", "no part of any linear layer"),
        (".", "leaves no layer"),
        ("(", "no regular expression"),
    ],
)
def test_what_cannot_be_ignored(base: Path, tmp_path: Path, ignore: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        quantised(base, [], tmp_path / "out", ignore=[ignore])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip"], "--clip says how to quantise: give --quantize"),
        (["--ignore", "mlp"], "--ignore says how"),
        (["--reduce-range"], "--reduce-range says how"),
        (["--quantize", "fp8", "--reduce-range"], "--reduce-range is for int8"),
    ],
)
def test_options_that_say_nothing_together(
    base: Path, adapter: Path, tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert main([*paths, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_codes_of_7_bits_say_so(base: Path, tmp_path: Path) -> None:
    """Else the service would take them for codes whose products overflow without VNNI."""
    command = ["--model", str(base), "--output", str(tmp_path / "out"), "--scheme", "int8"]
    assert quantize([*command, "--reduce-range"]) == 0
    made = read_quantised(tmp_path / "out")
    assert made is not None
    assert made.is_reduced
    codes = [tensor for tensor in weights(tmp_path / "out").values() if tensor.dtype == torch.int8]
    assert max(int(tensor.abs().max()) for tensor in codes) == REDUCED


@pytest.mark.parametrize("family", FAMILIES)
def test_other_kinds_are_refused_by_name(tmp_path: Path, family: str) -> None:
    base = write_family(family, tmp_path / "base")
    kind = json.loads((base / "config.json").read_text())["model_type"]
    if kind in PLAIN:
        quantised(base, [], tmp_path / "out")
        return
    with pytest.raises(TrainingError, match=f"type {kind}"):
        quantised(base, [], tmp_path / "out")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(tmp_path: Path, scheme: str, value: float) -> None:
    base = tiny_llama(tmp_path / "base")
    name = "model.layers.1.mlp.down_proj.weight"
    edit_weights(base / "model.safetensors", lambda tensors: tensors[name][3].fill_(value))
    with pytest.raises(TrainingError, match=f"{name} holds NaN or Inf"):
        quantised(base, [], tmp_path / "out", scheme)


def test_quantised_models_are_quantised_no_further(base: Path, tmp_path: Path) -> None:
    quantised(base, [], tmp_path / "out")
    with pytest.raises(TrainingError, match="is quantised"):
        quantised(tmp_path / "out", [], tmp_path / "again")


def test_a_prefix_stays_as_it_is(tmp_path: Path) -> None:
    base = converted_base(tmp_path / "base")
    quantised(base, [GOLDEN / "ptuning"], tmp_path / "out")
    merge(base, [GOLDEN / "ptuning"], tmp_path / "plain")
    name = "prefix/prefix.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert torch.int8 in {tensor.dtype for tensor in weights(tmp_path / "out").values()}


def test_a_wrong_code_is_found(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step off in every weight is more than rounding explains."""

    def wrong(exact: Any, *rest: Any, **more: Any) -> Any:
        made = quantise(exact, *rest, **more)
        made.codes[:] = made.codes + 3
        return made

    monkeypatch.setattr("training.merge.merged_weights.quantise", wrong)
    paths = ["--base", str(base), "--adapter", str(adapter), "--output", str(tmp_path / "out")]
    assert main([*paths, "--quantize", "int8", "--verify"]) == 1
    assert not (tmp_path / "out").exists()


def test_the_index_names_every_scale(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    wanted = WeightsFormat(max_shard_size=20_000, quantisation=Quantisation.of("int8"))
    merge(base, [], tmp_path / "out", wanted)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    assert {*index} == {*weights(tmp_path / "out")}
