"""ChatGLM-6B's config.json as vLLM reads it, and the engine settings that the model needs."""

import logging
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from vllm.config import VllmConfig
from vllm.config.compilation import CompilationMode, CUDAGraphMode
from vllm.model_executor.models.config import VerifyAndUpdateConfig

ARCHITECTURE = "ChatGLM6BForConditionalGeneration"
log = logging.getLogger("mergeline")


class ChatGLM6BConfig(PreTrainedConfig):
    """What training.convert chatglm writes.

    `mrope_section` makes vLLM take a prompt's positions from the model.
    """

    model_type = "chatglm_6b"
    mrope_section: ClassVar[list[int]] = [0, 0, 0]

    def __init__(self, prefix_tokens: int = 0, **values: Any) -> None:
        self.prefix_tokens = prefix_tokens
        super().__init__(**values)
        # placeholders take room in a sequence, and no position
        if prefix_tokens and values.get("max_position_embeddings"):
            self.max_position_embeddings += prefix_tokens


class EngineRules(VerifyAndUpdateConfig):
    """A context reads itself in both directions, so it must be computed in one piece."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Force the settings under which that holds; say so once.

        Raises ValueError for a setting that this model cannot be served with.
        """
        if vllm_config.speculative_config is not None:
            raise ValueError("ChatGLM-6B cannot be served with speculative decoding: switch it off")
        scheduler, length = vllm_config.scheduler_config, vllm_config.model_config.max_model_len
        scheduler.enable_chunked_prefill = False
        scheduler.long_prefill_token_threshold = 0
        scheduler.max_num_batched_tokens = max(scheduler.max_num_batched_tokens, length)
        vllm_config.cache_config.enable_prefix_caching = False
        vllm_config.compilation_config.mode = CompilationMode.NONE
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_DECODE_ONLY
        log.warning(
            "ChatGLM-6B: prefix caching, chunked prefill and compilation are off; a step takes up"
            " to %d tokens",
            scheduler.max_num_batched_tokens,
        )
