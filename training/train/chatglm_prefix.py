"""ChatGLM-6B with a prefix to train, saved in the form that peft gives prefixes of other models."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from training.chatglm.prefix import Prefix
from training.files import write_json
from training.train.config import PrefixSettings


class PrefixTunedModel(nn.Module):
    """Stands where a peft model stands for other models. Only the prefix trains.

    peft's own would shift the text's positions by the prefix's length, which ChatGLM does not.
    """

    def __init__(self, base: PreTrainedModel, settings: PrefixSettings) -> None:
        super().__init__()
        base.requires_grad_(False)
        config = base.config
        inner = settings.projection_size or config.hidden_size
        base.transformer.prefix = Prefix(
            settings.tokens,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.head_dim,
            inner if settings.projection else None,
        )
        self.base_model = base

    def get_base_model(self) -> PreTrainedModel:
        """The model inside, as peft names it."""
        return self.base_model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self.base_model(*args, **kwargs)

    def save_pretrained(self, folder: str, **_: object) -> None:
        """Write adapter_config.json and the prefix, folded: `prompt_embeddings` [P, 2·L·hidden]."""
        config, prefix = self.base_model.config, self.base_model.transformer.prefix
        with torch.no_grad():
            table = prefix.folded().float().cpu().contiguous()
        save_file({"prompt_embeddings": table}, Path(folder) / "adapter_model.safetensors")
        settings = {
            **{"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "inference_mode": True},
            "base_model_name_or_path": config.name_or_path,
            "num_virtual_tokens": prefix.tokens,
            "num_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "token_dim": config.hidden_size,
            "prefix_projection": False,
        }
        write_json(Path(folder) / "adapter_config.json", settings)
