"""The tokenizer inside a GGUF file.

transformers reads the byte-level ones well. Of LLaMA's own kind (sentencepiece) its reader puts a
blank before every text even where the file says not to, and no BOS; so that kind is rebuilt as the
sentencepiece model that it was.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gguf import GGUFReader, ReaderField
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.model_directory.tokenizer import tokenizer_from_sentencepiece

FIELD = "tokenizer.ggml."


def read_tokenizer(source: Path, context: int) -> PreTrainedTokenizerBase:
    """Return the transformers tokenizer of `source`, chat template included.

    `context` is the model's longest sequence in tokens.
    Raises ValueError or KeyError when the file lacks what a tokenizer needs.
    """
    fields = GGUFReader(source).fields
    if fields[f"{FIELD}model"].contents() == "llama":
        return _sentencepiece(fields, context)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = context
    return tokenizer


def _sentencepiece(fields: Mapping[str, ReaderField], context: int) -> PreTrainedTokenizerBase:
    def value(name: str, default: Any = None) -> Any:
        return fields[name].contents() if name in fields else default

    tokens, kinds = value(f"{FIELD}tokens"), value(f"{FIELD}token_type")
    proto = _proto(tokens, value(f"{FIELD}scores"), kinds)
    proto.normalizer_spec.add_dummy_prefix = value(f"{FIELD}add_space_prefix", True)
    for role, number in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos")):
        place = value(f"{FIELD}{number}_token_id")
        if place is not None:
            setattr(proto.trainer_spec, f"{role}_piece", tokens[place])
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.model"
        path.write_bytes(proto.SerializeToString())
        tokenizer = tokenizer_from_sentencepiece(path, context)
    added = [
        t for t, kind in zip(tokens, kinds, strict=True) if kind == proto.SentencePiece.USER_DEFINED
    ]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    tokenizer.chat_template = value("tokenizer.chat_template")
    if (pad := value(f"{FIELD}padding_token_id")) is not None:
        tokenizer.pad_token = tokens[pad]
    return tokenizer


def _proto(tokens: list[str], scores: list[float], kinds: list[int]) -> ModelProto:
    """LLaMA's sentencepiece model with these pieces; GGUF numbers their kinds as it does."""
    proto = ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        proto.pieces.add(piece=token, score=score, type=kind)
    return proto
