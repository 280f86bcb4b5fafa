"""ChatGLM2's and ChatGLM3's tokenizer.model as the fast tokenizer that everything else loads."""

from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Tokenizer, processors

from training.convert.chatglm.chatglm2_kind import Kind
from training.errors import TrainingError
from training.model_directory.tokenizer import bpe_backend, fast_tokenizer, read_bpe

PIECES = "tokenizer.model"
UNK, EOS = "<unk>", "</s>"


def chatglm2_tokenizer(source: Path, kind: Kind, context: int) -> Any:
    """Return the transformers tokenizer of the release in `source`.

    Ids equal those of the original: sentencepiece's for text, and after them the special tokens.
    `add_special_tokens` puts [gMASK] <sop> in front. The original writes these two "sop" and "eop"
    and never looks for them in text. Here the chat template writes special tokens as text, so they
    are spelt <sop> and <eop>: the word "sop" in a question stays a word. `context` is the model's
    longest sequence in tokens.
    Raises TrainingError when tokenizer.model is missing, or not of this kind.
    """
    backend = _backend(_read(source / PIECES, kind), kind)
    tokens = {"unk_token": UNK, "eos_token": EOS, "pad_token": UNK}
    return fast_tokenizer(backend, context, **tokens, extra_special_tokens=list(kind.special))


def _read(model: Path, kind: Kind) -> ModelProto:
    remedy = f"is it {kind.name}'s? Get {PIECES} of {kind.hub} again"
    try:
        proto = read_bpe(model)
    except TrainingError as error:  # GLM-4's file of that name is of another kind
        raise TrainingError(f"{error}: {remedy}") from error
    _check(model, kind, proto, remedy)
    return proto


def _check(model: Path, kind: Kind, proto: ModelProto, remedy: str) -> None:
    if not proto.normalizer_spec.add_dummy_prefix or proto.trainer_spec.treat_whitespace_as_suffix:
        raise TrainingError(f"{model}: expected a blank in front of texts: {remedy}")
    if {piece.type for piece in proto.pieces} & {4, 5}:
        raise TrainingError(f"{model} holds user-defined or unused pieces: {remedy}")
    _check_names(model, kind, {piece.piece for piece in proto.pieces}, remedy)


def _check_names(model: Path, kind: Kind, names: set[str], remedy: str) -> None:
    if missing := {UNK, "<s>", EOS} - names:
        raise TrainingError(f"{model} lacks the piece {min(missing)}: {remedy}")
    if clashing := names & {*kind.special}:
        raise TrainingError(f"{model} has {min(clashing)} as a piece: {remedy}")


def _backend(proto: ModelProto, kind: Kind) -> Tokenizer:
    tokenizer: Tokenizer = bpe_backend(proto)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in kind.special]
    )
    front = ("[gMASK]", "<sop>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{front[0]} {front[1]} $A",
        pair=f"{front[0]} {front[1]} $A $B:1 {EOS}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*front, EOS)],
    )
    return tokenizer
