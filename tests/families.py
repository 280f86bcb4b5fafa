"""Tiny random models of other families, with tokenizers and chat templates in their style."""

from pathlib import Path
from typing import Any

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
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# model type, template, BOS, EOS, further control tokens, settings
FAMILIES: dict[str, tuple[str, str, str | None, str, list[str], dict[str, Any]]] = {
    name: ("llama", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", headers, {"tie_word_embeddings": t})
    for headers in (["<|start_header_id|>", "<|end_header_id|>"],)
    for name, t in (("llama3-untied", False), ("llama3-tied", True))
} | {
    "qwen3": ("qwen3", QWEN3, None, "<|im_end|>", ["<|im_start|>"], {"tie_word_embeddings": True}),
    "glm4": (
        *("glm4", GLM4, None, "<|endoftext|>", ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]),
        {"tie_word_embeddings": False, "partial_rotary_factor": 0.5},
    ),
}


def write_family(name: str, path: Path) -> Path:
    """Write a random model directory of the family: float32 weights, tokenizer, template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, template, bos, eos, control, settings = FAMILIES[name]
    tokenizer = _tokenizer(bos, eos, control)
    tokenizer.chat_template = template
    config = AutoConfig.for_model(
        kind,
        **(SIZES | settings),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _tokenizer(bos: str | None, eos: str, control: list[str]) -> Any:
    """Byte-level BPE, as all of these families have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*([bos] if bos else []), eos, *control],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["感冒了怎么办？多喝水。the capital of France"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
