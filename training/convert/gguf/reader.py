"""A GGUF file as transformers reads it: its blocks as plain weights, and its tokenizer."""

from functools import partial
from pathlib import Path

import torch
import transformers.modeling_gguf_pytorch_utils as gguf_utils
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from training.convert.gguf.tokenizer import read_tokenizer
from training.progress import hide_transformers_bars


def read_gguf(place: Path, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return transformers' model, in `dtype` (float16 …), and its tokenizer.

    Raises whatever transformers' and gguf's readers raise for a file that they cannot read.
    """
    hide_transformers_bars()
    # its own bar, which heeds no setting: None hides it where there is no terminal
    gguf_utils.tqdm = partial(tqdm, disable=None)
    model = AutoModelForCausalLM.from_pretrained(
        place.parent,
        gguf_file=place.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
    )
    return model, read_tokenizer(place, model.config.max_position_embeddings)
