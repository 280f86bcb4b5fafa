"""Rouge on Chinese text, as PromptCBLUE's official script computes it; every figure is 0..1.

Tokens are those of BERT's basic tokenizer, n-grams count once, and 1e-8 keeps from dividing by 0.
"""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

EPSILON = 1e-8
NOTHING_SAID = ["无", "。"]  # what the official script reads in an empty text
HAN = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
]  # fmt: skip


class Rouge(NamedTuple):
    """F-measures of single tokens, of pairs, and of the longest common subsequence."""

    rouge1: float
    rouge2: float
    rouge_l: float


def rouge(prediction: str, reference: str) -> Rouge:
    """Of one text against one reference."""
    made, wanted = (tokens(text) or NOTHING_SAID for text in (prediction, reference))
    common = longest_common(made, wanted)
    return Rouge(
        _overlap(set(made), set(wanted)),
        _overlap(set(pairwise(made)), set(pairwise(wanted))),
        _f(common, len(made), len(wanted)),
    )


def _overlap(made: set[Any], wanted: set[Any]) -> float:
    return _f(len(made & wanted), len(made), len(wanted))


def _f(common: int, made: int, wanted: int) -> float:
    precision = common / made if made else 0.0
    recall = common / wanted if wanted else 0.0
    return 2 * (precision * recall / (precision + recall + EPSILON))


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the table is one integer's bits.

    Source: Hyyrö, Bit-parallel LCS-length computation revisited (2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & every
    return len(one) - row.bit_count()


def tokens(text: str) -> list[str]:
    """Han characters and punctuation one by one, words in lower case without their accents.

    Source: BertTokenizer's basic_tokenizer, with its defaults.
    """
    spaced = "".join(_spaced(character) for character in text)
    found: list[str] = []
    for word in unicodedata.normalize("NFC", spaced).split():
        bare = unicodedata.normalize("NFD", word.lower())
        letters = (each for each in bare if unicodedata.category(each) != "Mn")
        found += "".join(f" {each} " if _is_mark(each) else each for each in letters).split()
    return found


def _spaced(character: str) -> str:
    if character in "\t\n\r":
        return " "
    code, category = ord(character), unicodedata.category(character)
    if code == 0xFFFD or category.startswith("C"):
        return ""
    if category == "Zs":
        return " "
    return f" {character} " if any(low <= code <= high for low, high in HAN) else character


def _is_mark(character: str) -> bool:
    ascii_mark = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_mark or unicodedata.category(character).startswith("P")
