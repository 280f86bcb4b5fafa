"""ChatGLM-6B's fast tokenizer against sentencepiece, which the original of 2023 calls."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from tests.training.convert.chatglm_release import BASE, GOLDEN
from training.convert.chatglm.conversion import convert_chatglm
from training.convert.chatglm.tokenizer import (
    BORDERS,
    WITHIN,
    read_pieces,
    tokenizer_from_pieces,
)
from training.data.messages import Row
from training.errors import TrainingError
from training.rendering.conversation import Rendering, encode_prompt

MODEL = BASE / "ice_text.model"
PROTO = read_pieces(MODEL)
PIECES = [piece.piece for piece in PROTO.pieces]
SPECIAL = {*BORDERS, *WITHIN}
GMASK, SOP, EOP = 86, 89, 90


def before(text: str) -> str:
    """What the original does to a text first."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for length in range(80, 1, -1):
        text = text.replace(" " * length, f"<|blank_{length}|>")
    return text


def after(text: str) -> str:
    """What the original does to sentencepiece's text."""
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    for length in range(2, 81):
        text = text.replace(f"<|blank_{length}|>", " " * length)
    return text


class Pair(NamedTuple):
    """The fast tokenizer and the sentencepiece model that it must agree with."""

    fast: Any
    original: Any

    def check(self, text: str) -> None:
        """Ids equal; decoded whole or token by token, the text equals too."""
        ids = self.original.Encode(before(text))
        assert self.fast.encode(text, add_special_tokens=False) == ids
        assert self.fast.encode(text) == [*ids, GMASK, SOP]
        left = [number for number in ids if number not in self.fast.all_special_ids]
        decoded = self.fast.decode(ids, skip_special_tokens=True)
        assert decoded == after(self.original.Decode(left))
        # Where the model removes blanks, a token left out of a text brings two together; the
        # library's stream, which sees two tokens at a time, then takes them for leading ones.
        if left == ids or "  " not in decoded.replace("\t", " "):
            self.check_stream(ids, decoded)

    def check_stream(self, ids: list[int], decoded: str) -> None:
        """Decoding `ids` one by one gives the text; what may be half a character waits."""
        stream = DecodeStream(skip_special_tokens=True)
        steps = [stream.step(self.fast.backend_tokenizer, number) for number in ids]
        assert "".join(step or "" for step in steps) == decoded.rstrip("�")


def pair(folder: Path, normalizer: Any = None) -> Pair:
    proto = read_pieces(MODEL)
    if normalizer is not None:
        proto.normalizer_spec.CopyFrom(normalizer)
    tokenizer_from_pieces(proto, 1024).save_pretrained(folder)
    original = SentencePieceProcessor(model_proto=proto.SerializeToString())
    return Pair(AutoTokenizer.from_pretrained(folder), original)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session", params=[False, True], ids=["blanks-kept", "blanks-removed"])
def normalising(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """With NFKC, as the hub's file has it."""
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["ab cd ef gh"] * 50),
        model_writer=model,
        vocab_size=12,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=request.param,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return pair(tmp_path_factory.mktemp("nfkc"), proto.normalizer_spec)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("chatglm") / "model"
    convert_chatglm(BASE, folder)
    return AutoTokenizer.from_pretrained(folder)


def texts(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    literals = [*WITHIN, "<n>", "<|tab|>", "<|blank_7|>", "<|blank_81|>", "<0xE5>", "<0x", "[", "▁"]
    part = st.one_of(
        st.text(alphabet, max_size=20),
        st.sampled_from([p.replace("▁", " ") for p in PIECES[349:]]),
        st.integers(1, 200).map(lambda length: " " * length),
        st.sampled_from([*literals, "\n", "\t", "\r\n", "😀", "👍🏽", "，", "é"]),
    )
    whole = st.lists(part, max_size=30).map("".join)
    return whole.filter(lambda t: t not in SPECIAL and not any(b in t for b in BORDERS))


# without the three that the tokenizer uses itself
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\uffff\ufffe\ufdd0")
# with NFKC the library differs where a mark follows a character such as "ª"
UNMARKED = st.characters(exclude_categories=["Cs", "M", "Cn", "Co"])


@settings(max_examples=1000, deadline=None)
@given(texts(ANY))
@example(" leading")
@example("trailing ")
@example("[MASK]题")
@example("<|blank_2|> x")
@example("<0xE5><0x0A>")
@example(" " * 161)
def test_ids_and_text_equal_the_originals(plain: Pair, text: str) -> None:
    plain.check(text)


@settings(max_examples=300, deadline=None)
@given(texts(UNMARKED))
@example("病人，咳嗽：１２\u3000Ａ é")
@example(" ")
@example("\u3000")
@example("\x01")
@example(" \x01  a  ")
@example("＜ｎ＞")
def test_ids_and_text_equal_the_originals_where_it_normalises(normalising: Pair, text: str) -> None:
    normalising.check(text)


@pytest.mark.parametrize(
    "text", ["［gMASK］", "＜sop＞", "a＜eop＞b", "[\ufffegMASK]", "[\x01gMASK]"]
)
def test_normalisation_makes_no_special_token(normalising: Pair, text: str) -> None:
    ids = normalising.fast.encode(text, add_special_tokens=False)
    assert not set(ids) & set(normalising.fast.all_special_ids)


@pytest.mark.parametrize("name", ["base", "ptuning", "lora", "edge"])
def test_the_golden_prompts_have_the_golden_ids(converted: Any, name: str) -> None:
    prompts = json.loads((GOLDEN / f"expected_{name}.json").read_text())["prompts"]
    for prompt in prompts:
        ids, text = prompt["input_ids"], prompt["prompt"]
        assert converted.encode(text) == ids
        assert encode_prompt(converted, text) == ids
        assert converted.decode(ids, skip_special_tokens=True) in (text, _without(text))


def _without(text: str) -> str:
    for token in WITHIN:
        text = text.replace(token, "")
    return text


def in_bytes(char: str) -> list[int]:
    return [PIECES.index(f"<0x{value:02X}>") for value in char.encode()]


GENERATED = st.one_of(
    st.sampled_from([n for n, piece in enumerate(PIECES) if not piece.startswith("<0x")]).map(
        lambda number: [number]
    ),
    st.characters(exclude_categories=["Cs"], exclude_characters="▁�").map(in_bytes),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(GENERATED, max_size=30), st.integers(0, 3))
def test_any_ids_decode_as_the_originals_did(plain: Pair, parts: list[list[int]], cut: int) -> None:
    ids = [number for part in parts for number in part]
    left = [number for number in ids if number not in plain.fast.all_special_ids]
    decoded = plain.fast.decode(ids, skip_special_tokens=True)
    assert decoded == after(plain.original.Decode(left))
    plain.check_stream([*ids, *in_bytes("😀")[:cut]], decoded)  # it ended within a character


def test_roles_and_settings_are_the_originals(converted: Any) -> None:
    assert set(converted.all_special_tokens) == SPECIAL
    assert (converted.bos_token, converted.eos_token) == ("<sop>", "<eop>")
    assert (converted.pad_token, converted.unk_token) == ("<pad>", "<unk>")
    assert (converted.mask_token, converted.padding_side) == ("[MASK]", "left")
    assert (converted.model_max_length, len(converted)) == (1024, len(PIECES))
    for number, piece in enumerate(PIECES):
        assert converted.convert_tokens_to_ids(piece) == number
    for token in SPECIAL:
        assert converted.encode(token, add_special_tokens=False) == [PIECES.index(token)]
    padded = converted(["头痛", "病人咳嗽"], padding=True)["input_ids"]
    assert padded[0][0] == converted.pad_token_id


def test_the_answer_is_tokenised_as_if_it_stood_alone(converted: Any, plain: Pair) -> None:
    question, answer = "请从下面的文本中抽取实体：\n高血压", "高血压  糖尿病\n"
    [sample] = Rendering.of(converted).encode(Row.of(question, answer, "row 1"), 512)
    assert sample.prompt_ids == [*plain.original.Encode(before(question)), GMASK, SOP]
    assert sample.answer_ids == [*plain.original.Encode(before(answer)), EOP]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]


def test_the_template_numbers_rounds_only_when_there_is_a_history(converted: Any) -> None:
    def render(messages: list[dict[str, str]], prompt: bool) -> str:
        text: str = converted.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
        return text

    assert render(turns(" 头痛\n"), True) == " 头痛\n[gMASK]<sop>"
    assert render(turns("头痛", "多喝水"), False) == "头痛[gMASK]<sop>多喝水<eop>"
    history = "[Round 0]\n问：a\n答：b\n[Round 1]\n问：c\n答：d\n[Round 2]\n问：e\n答：[gMASK]<sop>"
    assert render(turns("a", "b", "c", "d", "e"), True) == history
    assert render(turns("a", "b", "c", "d", "e", "f"), False) == history + "f<eop>"
    system = [{"role": "system", "content": "你是医生"}]
    assert render(system + turns("a"), True) == "你是医生\na[gMASK]<sop>"
    assert render(system + turns("a", "b", "c"), True).startswith(
        "[Round 0]\n问：你是医生\na\n答：b"
    )
    for wrong in (
        turns("a")[:1] * 2,
        [{"role": "assistant", "content": "a"}],
        [*turns("a"), *system],
    ):
        with pytest.raises(Exception, match="must alternate user, assistant"):
            render(wrong, True)


def test_the_first_releases_pieces_are_completed_as_its_code_did(tmp_path: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(MODEL.read_bytes())
    short = [p for p in proto.pieces if p.type == p.NORMAL or p.piece in ("<unk>", "<n>", "<pad>")]
    del proto.pieces[:]
    proto.pieces.extend(short)
    proto.trainer_spec.byte_fallback = False
    (tmp_path / "ice_text.model").write_bytes(proto.SerializeToString())
    names = [piece.piece for piece in read_pieces(tmp_path / "ice_text.model").pieces]
    added = names[len(short) :]
    assert added[:8] == [*WITHIN[:4], "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
    assert added[8:11] == ["<|tab|>", "<|blank_2|>", "<|blank_3|>"]
    assert added[86:89] == ["<|blank_79|>", "<|blank_80|>", "<0x00>"]
    assert (added[-1], len(added)) == ("<0xFF>", 8 + 80 + 256)


@pytest.mark.parametrize("lost", ["[gMASK]", "<0xE5>", "<|blank_80|>"])
def test_another_sentencepiece_model_is_refused(tmp_path: Path, lost: str) -> None:
    proto = read_pieces(MODEL)
    del proto.pieces[PIECES.index(lost)]
    path = tmp_path / "ice_text.model"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(TrainingError, match=r"ice_text.model.*Get ice_text.model of THUDM"):
        read_pieces(path)
