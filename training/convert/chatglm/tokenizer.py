"""ChatGLM-6B's ice_text.model as the fast tokenizer that transformers and vLLM load.

Ids equal those of the original of 2023: newline, tab and runs of blanks are written as pieces,
then sentencepiece, which normalises (the hub's file: NFKC, so "，" becomes ","), puts a blank in
front and looks for the likeliest pieces.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from training.errors import TrainingError
from training.model_directory.tokenizer import fast_tokenizer, read_sentencepiece

SOP, EOP, GMASK, MASK, PAD = "<sop>", "<eop>", "[gMASK]", "[MASK]", "<pad>"
TOKENS = {  # by their keys in config.json
    **{"bos_token_id": SOP, "eos_token_id": EOP, "gmask_token_id": GMASK, "mask_token_id": MASK},
    "pad_token_id": PAD,
}
# A text between two of these is tokenised as if it stood alone, as prompt and answer were in
# training. The others stand within a text.
BORDERS = (SOP, EOP, "<s>", "</s>", PAD, "<unk>")
WITHIN = (MASK, GMASK, "[sMASK]", "<unused_0>", "<ENC>", "<dBLOCK>")
TAB, NEWLINE = "<|tab|>", "<n>"
BLANKS = range(80, 1, -1)  # the order in which the original looks for runs of blanks
BLANK = "▁"  # U+2581, sentencepiece's visible space
# Not characters in Unicode, and replaced in texts. The first two stand for "[" and "<" of tokens
# that the text itself holds, CUT within what would else be taken for one.
MARKS = {"[": "\uffff", "<": "\ufdd0"}
CUT = "\ufffe"
REMEDY = "is it ChatGLM-6B's? Get ice_text.model of THUDM/chatglm-6b again"


def read_pieces(model: Path) -> ModelProto:
    """Return the ModelProto in the file `model`, completed as the first release's code did.

    Raises TrainingError when the file is missing, or not a model such as ChatGLM-6B's.
    """
    proto = read_sentencepiece(model)
    pieces = _types(proto)
    if SOP not in pieces and NEWLINE in pieces:
        _complete(proto)
        pieces = _types(proto)
    _refuse_other_kinds(model, proto, [*pieces.values()])
    needed = {SOP, EOP, GMASK, MASK, PAD, "<unk>", NEWLINE, TAB, *map(_run, BLANKS)}
    if missing := needed - pieces.keys():
        raise TrainingError(f"{model} lacks the piece {min(missing)}: {REMEDY}")
    return proto


def _types(proto: ModelProto) -> dict[str, int]:
    return {piece.piece: piece.type for piece in proto.pieces}


def _refuse_other_kinds(model: Path, proto: ModelProto, kinds: list[int]) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.UNIGRAM or not trainer.byte_fallback or kinds.count(6) != 256:
        raise TrainingError(f"{model}: expected a unigram model with byte fallback: {REMEDY}")
    if not normalizer.add_dummy_prefix or trainer.treat_whitespace_as_suffix or 5 in kinds:
        raise TrainingError(f"{model}: expected a blank in front, no unused pieces: {REMEDY}")


def tokenizer_from_pieces(proto: ModelProto, context: int) -> Any:
    """Return the transformers tokenizer of `proto`, as read_pieces returns it.

    `add_special_tokens` appends [gMASK] <sop>; `context` is the model's longest sequence in
    tokens. Ids differ from the original's in corners only: text that holds special tokens (its
    parts between BORDERS are tokenised apart, one token alone has no blank in front), a
    compatibility character with a combining mark ("ª́") where the model normalises, and texts of
    some 10,000 characters, where sentencepiece's 32-bit sums round between equal segmentations.
    """
    pieces = {piece.piece for piece in proto.pieces}
    special = [token for token in (*WITHIN, *BORDERS) if token in pieces]
    roles = {"unk_token": "<unk>", "bos_token": SOP, "eos_token": EOP, "pad_token": PAD}
    roles["mask_token"] = MASK
    extra = [token for token in special if token not in roles.values()]
    return fast_tokenizer(_backend(proto, special), context, **roles, extra_special_tokens=extra)


def _run(length: int) -> str:
    return f"<|blank_{length}|>"


def _complete(proto: ModelProto) -> None:
    """Append what the code beside the first release's ice_text.model added when it was loaded."""
    piece = proto.SentencePiece
    proto.trainer_spec.byte_fallback = True
    for token in (MASK, GMASK, "[sMASK]", "<unused_0>", SOP, EOP, "<ENC>", "<dBLOCK>"):
        proto.pieces.add(piece=token, score=0.0, type=piece.CONTROL)
    for token in (TAB, *map(_run, reversed(BLANKS))):
        proto.pieces.add(piece=token, score=0.0, type=piece.USER_DEFINED)
    for value in range(256):
        proto.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=piece.BYTE)


def _backend(proto: ModelProto, special: Sequence[str]) -> Tokenizer:
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    tokenizer = Tokenizer(models.Unigram(_vocabulary(proto), ids["<unk>"], byte_fallback=True))
    tokenizer.normalizer = _normalizer(proto, special)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(CUT, "removed")
    tokenizer.decoder = _decoder(proto)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {GMASK} {SOP}",
        pair=f"$A {GMASK} {SOP} $B:1 {EOP}:1",
        special_tokens=[(token, ids[token]) for token in (GMASK, SOP, EOP)],
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=token in WITHIN, special=True) for token in special]
    )
    return tokenizer


def _vocabulary(proto: ModelProto) -> list[tuple[str, float]]:
    """Pieces with scores, those of user-defined pieces as sentencepiece computes them.

    Those that never come from text (bytes, <s>) need one that changes nothing: the library
    derives the unknown character's from the lowest of all.
    """
    normal = [piece.score for piece in proto.pieces if piece.type == piece.NORMAL]
    lowest, highest = min(normal), max(normal)

    def score(piece: ModelProto.SentencePiece) -> float:
        if piece.type == piece.NORMAL:
            return float(piece.score)
        defined = piece.type == piece.USER_DEFINED
        return float(len(piece.piece) * highest - 0.1 if defined else lowest)

    return [(piece.piece, score(piece)) for piece in proto.pieces]


def _normalizer(proto: ModelProto, special: Sequence[str]) -> normalizers.Normalizer:
    """The original's replacements, then sentencepiece's own normalisation.

    No blank is put before a text that is one token: added tokens pass through here too, and an
    empty prompt's text is "[gMASK]".
    """
    replace, spec = normalizers.Replace, proto.normalizer_spec
    within = _rests(token for token in special if token in WITHIN)
    marks = "".join(MARKS.values())
    written = [
        replace(Regex(f"[{marks}{CUT}]"), "\ufffd"),  # not "", which would join what stood apart
        # zero-width matches would be shorter, but the library loses count of characters then
        *(replace(Regex(f"{re.escape(c)}(?={within})"), mark) for c, mark in MARKS.items()),
        *(replace("\n", NEWLINE), replace("\t", TAB)),
        *(replace(" " * length, _run(length)) for length in BLANKS),
    ]
    # in front before normalisation: a text of which that leaves nothing has its blank nevertheless
    steps = [
        *(*written, normalizers.Prepend(" ")),
        replace(Regex(rf"\A (?=[{marks}](?:{within})\z)"), ""),
    ]
    if spec.precompiled_charsmap:
        # NFC first: the library takes the shortest rule that fits where sentencepiece takes the
        # longest, and composed characters leave it one
        steps += [normalizers.NFC(), normalizers.Precompiled(spec.precompiled_charsmap)]
    if spec.remove_extra_whitespaces:
        steps += [replace(Regex(" {2,}"), " "), replace(Regex(r" +\z"), "")]
    return normalizers.Sequence([*steps, *_cuts(special), replace(" ", BLANK)])


def _cuts(special: Sequence[str]) -> list[normalizers.Normalizer]:
    """Cut names of bytes, and of special tokens that normalisation made; then undo the marks.

    The library would take "<0xE5>" in a text for that byte and "＜sop＞" for the token: neither
    may come from what a user writes. Tokens that the text itself holds are refused elsewhere.
    """
    rests = rf"0x[0-9A-F]{{2}}>|{_rests(special)}"
    replace = normalizers.Replace
    cuts = [replace(Regex(f"{re.escape(char)}(?={rests})"), f"{char}{CUT}") for char in MARKS]
    return [*cuts, *(replace(mark, char) for char, mark in MARKS.items())]


def _rests(tokens: Iterable[str]) -> str:
    """A pattern for what follows the first letter of `tokens`."""
    return "|".join(re.escape(token[1:]) for token in tokens)


def _decoder(proto: ModelProto) -> decoders.Decoder:
    blanks = len(BLANKS) if proto.normalizer_spec.remove_extra_whitespaces else 1
    return decoders.Sequence(
        [
            *(decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(BLANK, blanks, 0)),
            *(decoders.Replace(BLANK, " "), decoders.Replace(NEWLINE, "\n")),
            decoders.Replace(TAB, "\t"),
            *(decoders.Replace(_run(length), " " * length) for length in reversed(BLANKS)),
        ]
    )
