"""Chat templates that have their models think, each by the mechanism of a published family."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLIT = (
    "{% set text = m.content %}{% set thought = m.reasoning_content | default('', true) %}"
    "{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
LAST = (
    "{% set ns = namespace(asked=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
)
QWEN = (
    LAST
    + "{% for m in messages %}{% if m.role == 'assistant' %}"
    + SPLIT
    + "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.asked and (loop.last or thought) %}"
    "{{ '<think>\n' ~ thought ~ '\n</think>\n\n' }}{% endif %}{{ text ~ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}GENERATION{% endif %}"
)
OFF = "enable_thinking is defined and enable_thinking is false"
BLOCK = "{{ '<think>\n\n</think>\n\n' }}"
STRIPPED = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content.split('</think>')[-1]"
    " ~ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\nGENERATION' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'assistant' %}"
    + SPLIT
    + "{{ '<|assistant|>\n<think>' ~ (thought if loop.last else '') ~ '</think>\n' ~ text }}"
    "{% else %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% if m.role == 'user' and "
    + OFF
    + " %}/nothink{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if " + OFF + " %}{{ '\n<think></think>' }}"
    "{% endif %}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<｜Assistant｜>TURN' ~ m.content.split('</think>')[-1] ~ eos_token }}{% else %}"
    "{{ '<｜User｜>' ~ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>GENERATION{% endif %}"
)
HUNYUAN = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set text = m.content %}{% if '<answer>' in text %}"
    "{% set text = text.split('<answer>')[-1].split('</answer>')[0].strip() %}{% endif %}"
    "{{ text.split('</think>')[-1] ~ eos_token }}{% else %}{{ m.content ~ '<|extra_0|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt and OFF %}"
    "{{ '<think>\n\n</think>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Mechanism:
    """A template, and what stands between the assistant's header and the answer or the thought."""

    template: str
    off: str
    """What serving writes behind the header without a thought."""
    on: str
    """And with one."""
    closing: str
    """What divides a thought from its answer."""
    opened_by_model: str = ""
    default_off: bool = False
    """Of the published template."""
    switches: bool = True
    """Whether a model trained without thoughts can be asked for one."""
    marks_are_tokens: bool = True


MECHANISMS = {
    "qwen3": Mechanism(
        QWEN.replace("GENERATION", f"{{% if {OFF} %}}{BLOCK}{{% endif %}}"),
        *("<think>\n\n</think>\n\n", "", "\n</think>\n\n", "<think>\n"),
    ),
    "qwen3-2507-instruct": Mechanism(
        STRIPPED.replace("GENERATION", "").replace(".split('</think>')[-1]", ""),
        *("", "", "\n</think>\n\n", "<think>\n"),
        switches=False,
    ),
    "qwen3-2507-thinking": Mechanism(
        STRIPPED.replace("GENERATION", "<think>\n"),
        *("<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n"),
    ),
    "qwen3.5": Mechanism(
        QWEN.replace(
            "GENERATION", f"{{% if {OFF} %}}{BLOCK}{{% else %}}{{{{ '<think>\n' }}}}{{% endif %}}"
        ),
        *("<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n"),
    ),
    "glm4.5": Mechanism(GLM, "\n<think></think>\n", "", "</think>\n", "\n<think>"),
    "r1-distill": Mechanism(
        DEEPSEEK.replace("TURN", "").replace("GENERATION", "{{ '<think>\n' }}"),
        *("<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n"),
    ),
    "deepseek-v3.1": Mechanism(
        DEEPSEEK.replace("TURN", "</think>").replace(
            "GENERATION", "{% if thinking %}<think>{% else %}</think>{% endif %}"
        ),
        *("</think>", "<think>", "</think>"),
        default_off=True,
    ),
    "hunyuan": Mechanism(
        HUNYUAN.replace("OFF", OFF),
        *("<think>\n\n</think>\n", "", "\n</think>\n", "<think>\n"),
        marks_are_tokens=False,
    ),
    "hunyuan3": Mechanism(
        HUNYUAN.replace("OFF", "reasoning_effort == 'no_think'"),
        *("<think>\n\n</think>\n", "", "\n</think>\n", "<think>\n"),
        marks_are_tokens=False,
    ),
}
CONTROL = ["<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]
CONTROL += ["<|system|>", "<｜User｜>", "<｜Assistant｜>", "<|extra_0|>", "<|endoftext|>"]
MARKS = ["<think>", "</think>"]


def write_thinking(name: str, path: Path) -> Path:
    """Write a random LLaMA with that mechanism's template, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = thinking_tokenizer(name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).float().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def thinking_tokenizer(name: str) -> Any:
    """A byte-level tokenizer with the control tokens of all families, and the template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    mechanism = MECHANISMS[name]
    eos = "<|im_end|>" if "<|im_end|>" in mechanism.template else "</s>"
    marks = MARKS if mechanism.marks_are_tokens else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", *CONTROL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["感冒了怎么办？多喝水。先想一想：病人咳嗽。"] * 3, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=mechanism.template,
        bos_token="<s>", eos_token=eos, pad_token="</s>",
        model_max_length=512, clean_up_tokenization_spaces=False,
    )  # fmt: skip
