"""A sentencepiece model as the fast tokenizer that transformers and vLLM load."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from training.errors import TrainingError

_BLANK = "▁"  # U+2581, sentencepiece's visible space


def tokenizer_from_sentencepiece(model: Path, max_length: int) -> Any:
    """Turn a LLaMA-style sentencepiece BPE `model` into a transformers tokenizer.

    Ids equal sentencepiece's for any text without control tokens. BOS is put in front by
    `add_special_tokens`; `max_length` is the model's context in tokens.
    Raises TrainingError when the file is not a BPE model with byte fallback and identity
    normalisation, which is what LLaMA's are.
    """
    proto = read_bpe(model)
    return fast_tokenizer(
        _with_bos(proto),
        max_length,
        unk_token=proto.trainer_spec.unk_piece,
        bos_token=proto.trainer_spec.bos_piece,
        eos_token=proto.trainer_spec.eos_piece,
        pad_token=proto.trainer_spec.unk_piece,
    )


def fast_tokenizer(backend: Any, max_length: int, **tokens: str | list[str]) -> Any:
    """Return the transformers tokenizer around a tokenizers.Tokenizer with these special tokens."""
    from transformers import PreTrainedTokenizerFast  # late: seconds, for nothing if input is wrong

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **tokens,
    )


def read_sentencepiece(model: Path) -> Any:
    """Return the ModelProto in the file `model`.

    Raises TrainingError when it is missing or not a sentencepiece model.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model.read_bytes())
    except OSError as error:
        raise TrainingError(f"{model}: cannot read the tokenizer: {error.strerror}") from error
    except DecodeError as error:
        raise TrainingError(f"{model}: not a sentencepiece model") from error
    return proto


def read_bpe(model: Path) -> Any:
    """Return the ModelProto of LLaMA's kind in the file `model`.

    Raises TrainingError when it is missing, or not a BPE model with byte fallback and identity
    normalisation.
    """
    proto = read_sentencepiece(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.BPE or not trainer.byte_fallback:
        raise TrainingError(f"{model}: expected a BPE model with byte fallback, as LLaMA's is")
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise TrainingError(f"{model}: expected identity normalisation, as LLaMA's is")
    return proto


def bpe_backend(proto: Any) -> Any:
    """Return the tokenizers.Tokenizer of a `proto` from read_bpe; it adds no special tokens.

    Ids equal sentencepiece's for any text without control tokens.
    """
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    unknown = proto.trainer_spec.unk_piece
    tokenizer = Tokenizer(
        models.BPE(
            vocab, _merges(proto, vocab), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    prefix = proto.normalizer_spec.add_dummy_prefix
    steps = [normalizers.Prepend(_BLANK)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _BLANK)])
    tokenizer.decoder = _decoder(prefix)
    tokenizer.add_special_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=True)
            for piece in proto.pieces
            if piece.type in (piece.CONTROL, piece.UNKNOWN)
        ]
    )
    return tokenizer


def _with_bos(proto: Any) -> Any:
    tokenizer, bos = bpe_backend(proto), proto.trainer_spec.bos_piece
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return tokenizer


def _merges(proto: Any, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to build a piece from two, best piece first: sentencepiece's order of merging."""
    normal = (piece for piece in proto.pieces if piece.type == piece.NORMAL)
    order = {piece.piece: (-piece.score, vocab[piece.piece]) for piece in normal}
    best_first = sorted(order, key=order.__getitem__)
    return [pair for text in best_first for pair in _splits(text) if order.keys() >= {*pair}]


def _splits(text: str) -> list[tuple[str, str]]:
    return [(text[:cut], text[cut:]) for cut in range(1, len(text))]


def _decoder(prefix: bool) -> Any:
    steps = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
