"""ChatGLM-6B's golden data and random checkpoints, as model directories for other tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "chatglm-6b"


class Row(NamedTuple):
    """One golden prompt: its text, ids with [gMASK] <sop>, 24 greedy ids, last logits."""

    prompt: str
    input_ids: list[int]
    greedy_ids: list[int]
    logits: list[float]

    @property
    def request(self) -> tuple[str, bool]:
        """How to send it, and whether raw: the service refuses a prompt without a word."""
        return (self.prompt, False) if self.prompt else ("[gMASK]<sop>", True)


def golden_rows(variant: str) -> list[Row]:
    """The rows of expected_{variant}.json."""
    told = json.loads((GOLDEN / f"expected_{variant}.json").read_text())["prompts"]
    names = ("prompt", "input_ids", "greedy_ids", "last_prompt_logits")
    return [Row(*(row[name] for name in names)) for row in told]


def converted_base(folder: Path) -> Path:
    """The golden base as a model directory."""
    from training.convert.chatglm.conversion import convert_chatglm

    convert_chatglm(GOLDEN / "base", folder)
    return folder


def random_chatglm(base: Path, folder: Path, **sizes: Any) -> Path:
    """A random model of other sizes with the tokenizer of `base`."""
    import shutil

    import torch

    from training.chatglm import ChatGLM6BConfig, ChatGLM6BForConditionalGeneration

    config = ChatGLM6BConfig.from_pretrained(base, **sizes)
    config.initializer_range = 0.2  # large: clear winners among the logits
    torch.manual_seed(0)
    model = ChatGLM6BForConditionalGeneration(config).float()
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*", "prov*"))
    model.save_pretrained(folder)
    return folder


def random_prefix(base: Path, folder: Path, tokens: int, *, projection: bool) -> Path:
    """A random prefix for `base`, in the form that ChatGLM's own P-tuning code saves."""
    import torch

    from training.chatglm import ChatGLM6BConfig

    config = ChatGLM6BConfig.from_pretrained(base)
    hidden, width = config.hidden_size, 2 * config.num_hidden_layers * config.hidden_size
    torch.manual_seed(1)
    state = {"embedding.weight": torch.randn(tokens, hidden if projection else width)}
    if projection:
        state |= {
            "trans.0.weight": torch.randn(48, hidden) / hidden**0.5,
            "trans.0.bias": torch.randn(48),
            "trans.2.weight": torch.randn(width, 48) / 48**0.5,
            "trans.2.bias": torch.randn(width),
        }
    folder.mkdir()
    torch.save(
        {f"transformer.prefix_encoder.{name}": value for name, value in state.items()},
        folder / "pytorch_model.bin",
    )
    (folder / "config.json").write_text(json.dumps({"pre_seq_len": tokens}))
    return folder


def attach_prefix(model: Any, prefix: Path) -> None:
    """Put a prefix as random_prefix writes it before all that a loaded model reads."""
    import torch

    from training.chatglm.prefix import Prefix

    state = torch.load(prefix / "pytorch_model.bin", weights_only=True)
    state = {name.removeprefix("transformer.prefix_encoder."): t for name, t in state.items()}
    inner = state["trans.0.bias"].numel() if "trans.0.bias" in state else None
    config = model.config
    sizes = (config.num_hidden_layers, config.num_attention_heads, config.head_dim)
    model.transformer.prefix = Prefix(len(state["embedding.weight"]), *sizes, inner).eval()
    model.transformer.prefix.load_state_dict(state)
