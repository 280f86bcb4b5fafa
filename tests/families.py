"""Tiny random models of other families, laid out on disk as their makers publish them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.models import edit_json, edit_weights

if TYPE_CHECKING:
    import torch

CONTEXT = 512
SIZES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT},
    "initializer_range": 0.2,  # large: clear winners among the logits
}
HEADER = "{{ '<|start_header_id|>' ~ %s ~ '<|end_header_id|>\n\n' }}"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    + HEADER % "m.role"
    + "{{ m.content }}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    + HEADER % "'assistant'"
    + "{% endif %}"
)
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' ~"
    " ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ m.content ~ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' ~ m.content ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content ~ eos_token }}"
    "{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{{ '<｜User｜>' if m.role == 'user' else"
    " '<｜Assistant｜>' }}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% else %}"
    "{{ '\n' }}{% endif %}{% endfor %}"
)
HEADERS = ["<|start_header_id|>", "<|end_header_id|>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]


@dataclass(frozen=True)
class Family:
    """A model type with its settings, its chat template and tokens, and how it lies on disk.

    `publish` edits what save_pretrained wrote; `targets` are what LoRA can be merged into.
    """

    kind: str
    template: str
    bos: str | None
    eos: str
    control: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    targets: str = "all-linear"
    publish: Callable[[Path], None] | None = None


def _silent(path: Path) -> None:
    """Gemma's config.json leaves it to the class that the head is the embeddings."""
    config = json.loads((path / "config.json").read_text())
    for settings in (config, config.get("text_config", {})):
        settings.pop("tie_word_embeddings", None)
    (path / "config.json").write_text(json.dumps(config))


def _without_prefix(path: Path) -> None:
    """Bloom was saved from the model without a head, whose names lack a first part."""

    def rename(tensors: "dict[str, torch.Tensor]") -> None:
        for name in [*tensors]:
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    edit_weights(path / "model.safetensors", rename)


def _as_llama_tokenizer(path: Path) -> None:
    """DeepSeek's distills say LlamaTokenizerFast of a tokenizer.json that is byte-level."""
    edit_json(path / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")


MOE = {
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "tie_word_embeddings": False,
}
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = {"num_attention_heads": 2, "head_dim": None}  # which it takes from hidden_size
SLIDING = {"sliding_window": 64, "query_pre_attn_scalar": 32}
FAMILIES = {
    "llama2": Family("llama", MISTRAL, "<s>", "</s>", [], {"tie_word_embeddings": False}),
    "llama3": Family(
        *("llama", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", HEADERS),
        {"tie_word_embeddings": False},
    ),
    "llama3-tied": Family(
        *("llama", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", HEADERS),
        {"tie_word_embeddings": True},
    ),
    "mistral": Family("mistral", MISTRAL, "<s>", "</s>", ["[INST]", "[/INST]"]),
    "qwen2": Family(
        *("qwen2", QWEN, None, "<|im_end|>", ["<|im_start|>"]),
        QWEN2 | {"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        *("qwen3", QWEN, None, "<|im_end|>", ["<|im_start|>"]), {"tie_word_embeddings": True}
    ),
    "qwen3-moe": Family(
        *("qwen3_moe", QWEN, None, "<|im_end|>", ["<|im_start|>"], MOE),
        targets="[q_proj, k_proj, v_proj, o_proj]",
    ),
    "glm4": Family(
        *("glm4", GLM4, None, "<|endoftext|>", ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]),
        {"tie_word_embeddings": False, "partial_rotary_factor": 0.5},
    ),
    "gemma2": Family(*("gemma2", GEMMA, "<bos>", "<eos>", TURNS, SLIDING), publish=_silent),
    "gemma3": Family(*("gemma3_text", GEMMA, "<bos>", "<eos>", TURNS, SLIDING), publish=_silent),
    "deepseek-distill-qwen": Family(
        *("qwen2", DEEPSEEK, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ["<｜User｜>", "<｜Assistant｜>"],
        QWEN2 | {"tie_word_embeddings": False},
        publish=_as_llama_tokenizer,
    ),
    "deepseek-distill-llama": Family(
        *("llama", DEEPSEEK, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ["<｜User｜>", "<｜Assistant｜>"],
        {"tie_word_embeddings": False},
        publish=_as_llama_tokenizer,
    ),
    "bloom": Family(
        *("bloom", PLAIN, "<s>", "</s>", []),
        {"n_layer": 2, "num_attention_heads": 2},
        publish=_without_prefix,
    ),
}


def write_family(name: str, path: Path, **sizes: Any) -> Path:
    """Write a random model directory of the family: float32 weights, tokenizer, template.

    `sizes` override its settings.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[name]
    tokenizer = family_tokenizer(name)
    config = AutoConfig.for_model(
        family.kind,
        **{key: v for key, v in (SIZES | family.settings | sizes).items() if v is not None},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(path)
    tokenizer.save_pretrained(path)
    if family.publish:
        family.publish(path)
    return path


def family_tokenizer(name: str) -> Any:
    """Byte-level BPE, as most of these families have, with the chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if family.kind == "qwen2":  # whose class transformers takes for every model of the type
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*([family.bos] if family.bos else []), family.eos, *family.control],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["感冒了怎么办？多喝水。the capital of France"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=family.template,
        bos_token=family.bos, eos_token=family.eos,
        pad_token=family.eos, model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
