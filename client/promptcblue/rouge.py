"""Rouge on Chinese text, as PromptCBLUE's official script computes it; every figure is 0..1.

Tokens are those of BERT's basic tokenizer, n-grams count once, and 1e-8 keeps from dividing by 0.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

EPSILON = 1e-8
NOTHING_SAID = ["无", "。"]  # what the official script reads in an empty text
HAN = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


class Rouge(NamedTuple):
    """F-measures of single tokens, of pairs, and of the longest common subsequence."""

    rouge1: float
    rouge2: float
    rouge_l: float


def rouge(prediction: str, reference: str) -> Rouge:
    """Of one text against one reference."""
    made, expected = (tokens(text) or NOTHING_SAID for text in (prediction, reference))
    common = longest_common(made, expected)
    return Rouge(
        _overlap(set(made), set(expected)),
        _overlap(set(pairwise(made)), set(pairwise(expected))),
        _f(common, len(made), len(expected)),
    )


def _overlap(made: set[Any], expected: set[Any]) -> float:
    return _f(len(made & expected), len(made), len(expected))


def _f(common: int, made: int, expected: int) -> float:
    precision = common / made if made else 0.0
    recall = common / expected if expected else 0.0
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
    spaced = HAN.sub(r" \g<0> ", "".join(map(_visible, text)))
    words = unicodedata.normalize("NFC", spaced).split()
    return [*chain.from_iterable(map(_parts, words))]


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    return "" if character == "\ufffd" or category.startswith("C") else character


def _parts(word: str) -> list[str]:
    bare = unicodedata.normalize("NFD", word.lower())
    letters = (each for each in bare if unicodedata.category(each) != "Mn")
    return "".join(f" {each} " if _is_mark(each) else each for each in letters).split()


def _is_mark(character: str) -> bool:
    ascii_mark = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_mark or unicodedata.category(character).startswith("P")
