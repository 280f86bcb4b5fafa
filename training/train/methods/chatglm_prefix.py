"""ChatGLM-6B with a prefix to train, saved in the form that peft gives prefixes of other models."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from training.chatglm.prefix import Prefix
from training.files import write_json
from training.train.methods.settings import PrefixSettings
from training.train.methods.tuned_base import TunedBase


class PrefixTunedModel(TunedBase):
    """ChatGLM-6B of which only the prefix trains.

    peft's own would shift the text's positions by the prefix's length, which ChatGLM does not.
    """

    def __init__(self, base: PreTrainedModel, settings: PrefixSettings) -> None:
        super().__init__(base)
        config = base.config
        inner = settings.projection_size or config.hidden_size
        base.transformer.prefix = Prefix(
            settings.tokens,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.head_dim,
            inner if settings.projection else None,
        )

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
