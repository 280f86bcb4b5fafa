"""Next-token logits of the merged model against those of base and adapters, by peft itself."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import training.chatglm  # noqa: F401 - so that ChatGLM-6B is known
from training.errors import TrainingError
from training.files import read_json
from training.merge.dequantised import Dequantised, load_dequantised
from training.merge.peft_adapter import LoraAdapter
from training.merge.verdict import UnfaithfulMergeError, Verdict
from training.model_directory.directory import embedding_rows, is_end
from training.model_directory.model_files import has_tokenizer
from training.progress import hide_transformers_bars

# Half a unit in the last place, as a share of the value: what rounding to nearest may move it by.
ROUNDING = {"F16": 2.0**-11, "BF16": 2.0**-8, "F32": 2.0**-24}
MARGIN = 4  # between the largest of one random draw and of another
ARITHMETIC = 1e-4  # of the largest logit: (W + BA)x and Wx + B(Ax) differ in fp32 as well


def verify(
    base: Path, adapters: Sequence[LoraAdapter], merged: Path, dtype: str, prompts: Sequence[str]
) -> Verdict:
    """Compare `merged`, whose weights are of `dtype` (F16, BF16, F32), with base and adapters.

    Both run in fp32, one after the other, so that only the weights' rounding differs. What it
    explains is measured: the merged weights are moved at random by as much as rounding may have
    moved them, and the logits may differ by MARGIN times what that makes of them.
    Raises UnfaithfulMergeError when they differ by more, TrainingError when peft cannot load the
    adapters.
    """
    ids = _token_ids(merged, prompts)
    made = _merged(merged)
    ours = _logits(made.model, ids)
    with torch.no_grad():
        _perturb(made, ROUNDING[dtype])
    perturbed = _logits(made.model, ids)
    del made
    theirs = _logits(_reference(base, adapters), ids)
    allowed = MARGIN * _largest(perturbed - ours) + ARITHMETIC * _largest(theirs)
    same = (ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean().item()
    verdict = Verdict(len(ours), _largest(ours - theirs), allowed, same)
    if not verdict.max_difference <= allowed:  # NaN is not
        raise UnfaithfulMergeError(
            f"the merged model is not base + adapters: a logit differs by"
            f" {verdict.max_difference:.3g}, rounding to {dtype} explains {allowed:.3g}, the next"
            f" token is the same at {same:.1%} of {len(ours)} positions: please report this"
        )
    return verdict


def _merged(directory: Path) -> Dequantised:
    is_quantised = "quantization_config" in read_json(directory / "config.json")
    return load_dequantised(directory) if is_quantised else Dequantised(_load(directory), {})


def _load(directory: Path) -> PreTrainedModel:
    hide_transformers_bars()
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def _reference(base: Path, adapters: Sequence[LoraAdapter]) -> PreTrainedModel | PeftModel:
    """Return base with the last adapter active, those before it merged by peft in fp32."""
    model = _load(base)
    if model.config.tie_word_embeddings and any(map(_touches_ends, adapters[:-1])):
        raise TrainingError(
            "several adapters on the embeddings or head of a base that ties them cannot be"
            " verified: peft would merge into both at once: merge without --verify"
        )
    for number, adapter in enumerate(adapters, start=1):
        model = _add(model, adapter)
        if number < len(adapters):
            model = model.merge_and_unload()
    return model


def _add(model: PreTrainedModel, adapter: LoraAdapter) -> PeftModel:
    """Return `model` with the adapter active; peft must find every tensor that it expects."""
    rows = embedding_rows(adapter.whole) or model.get_input_embeddings().weight.shape[0]
    if rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter.path).eval()
        except (KeyError, RuntimeError, TypeError, ValueError, UserWarning) as error:
            raise TrainingError(
                f"{adapter.path} cannot be verified: this peft does not load it (an older one wrote"
                f" it?): merge without --verify ({type(error).__name__}: {error})"
            ) from error


def _touches_ends(adapter: LoraAdapter) -> bool:
    return any(map(is_end, (*adapter.pairs, *adapter.whole, *adapter.rows)))


def _token_ids(directory: Path, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Return one row of token ids a prompt; without a tokenizer, bytes stand in for them."""
    encode = _tokens if has_tokenizer(directory) else _bytes
    ids = encode(directory, prompts)
    if not all(row.numel() for row in ids):
        raise TrainingError("an empty text verifies nothing: put some words into --verify-prompt")
    return ids


def _tokens(directory: Path, prompts: Sequence[str]) -> list[torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return [tokenizer(text, return_tensors="pt").input_ids for text in prompts]


def _bytes(directory: Path, prompts: Sequence[str]) -> list[torch.Tensor]:
    size = AutoConfig.from_pretrained(directory).vocab_size
    return [torch.tensor([[byte % size for byte in text.encode()]]) for text in prompts]


def _logits(model: PreTrainedModel, prompts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the logits [positions, vocabulary] of all prompts."""
    with torch.no_grad():
        return torch.cat([model(input_ids=ids).logits[0] for ids in prompts])


def _perturb(made: Dequantised, share: float) -> None:
    """Move every weight up or down by at most what rounding may have moved it by.

    That is `share` of itself, unless it is quantised.
    """
    generator = torch.Generator().manual_seed(0)
    for name, weight in made.model.named_parameters():
        noise = torch.empty_like(weight).uniform_(-1, 1, generator=generator)
        weight.add_(noise.mul_(made.moved.get(name, share * weight)))


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max())
