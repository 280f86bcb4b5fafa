"""The fast tokenizer of ChatGLM2 and 3 against sentencepiece, which the originals call."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from transformers import AutoTokenizer

from tests.training.convert.chatglm2_release import PIECES, sentencepiece_model, write_release
from training.convert.chatglm.conversion import convert_chatglm
from training.data.messages import Row
from training.errors import TrainingError
from training.rendering.conversation import Rendering, encode_prompt

ORIGINAL = SentencePieceProcessor(model_proto=sentencepiece_model())
# "sop" and "eop" in the original
SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
FRONT = [PIECES + 1, PIECES + 3]
SYSTEM, USER, ASSISTANT = PIECES + 5, PIECES + 6, PIECES + 7
EOS = 2


class Both(NamedTuple):
    two: Any
    three: Any


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    root = tmp_path_factory.mktemp("chatglm23")
    for kind in ("chatglm2", "chatglm3"):
        convert_chatglm(write_release(root / kind, kind), root / f"{kind}-model")
    return Both(*(AutoTokenizer.from_pretrained(root / f"chatglm{n}-model") for n in (2, 3)))


def ids(text: str) -> list[int]:
    found: list[int] = ORIGINAL.Encode(text)
    return found


ANY = st.characters(exclude_categories=["Cs"])
PARTS = st.one_of(
    st.text(ANY, max_size=20),
    st.sampled_from([ORIGINAL.IdToPiece(n).replace("▁", " ") for n in range(259, PIECES)]),
    st.integers(1, 40).map(lambda length: " " * length),
    st.sampled_from(["sop", "eop", "<sop", "gMASK]", "[Round 1]", "<0xE5>", "▁", "\n", "\t", "😀"]),
)
TEXTS = st.lists(PARTS, max_size=30).map("".join)
CONTROL = [*SPECIAL, *ROLES, "<unk>", "<s>", "</s>"]
PLAIN = TEXTS.filter(lambda text: not any(token in text for token in CONTROL))


@settings(max_examples=1000, deadline=None)
@given(PLAIN)
@example("")
@example(" ")
@example("sop")
@example("a sop eop b")
@example("  x  \n\n y ")
@example("<0xE5><0x0A>")
def test_ids_and_text_equal_sentencepieces(both: Both, text: str) -> None:
    for tokenizer in both:
        assert tokenizer.encode(text, add_special_tokens=False) == ids(text)
        assert tokenizer.encode(text) == [*FRONT, *ids(text)]
        assert tokenizer.decode(ids(text), skip_special_tokens=True) == ORIGINAL.Decode(ids(text))


def test_special_tokens_have_the_originals_ids_and_words_stay_words(both: Both) -> None:
    for tokenizer, special in ((both.two, SPECIAL), (both.three, SPECIAL + ROLES)):
        assert len(tokenizer) == PIECES + len(special)
        for number, token in enumerate(special, PIECES):
            assert tokenizer.convert_tokens_to_ids(token) == number
            assert tokenizer.encode(token, add_special_tokens=False) == [number]
            assert token in tokenizer.all_special_tokens
        assert tokenizer.eos_token_id == EOS
        assert (tokenizer.pad_token, tokenizer.bos_token) == ("<unk>", None)
        assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 512)
        assert not set(tokenizer.encode("sop eop", add_special_tokens=False)) & set(
            tokenizer.all_special_ids
        )
    assert both.two.encode("<|user|>", add_special_tokens=False) == ids("<|user|>")


@settings(max_examples=200, deadline=None)
@given(PLAIN.filter(str.strip), PLAIN.filter(bool))
@example(" 头痛\n", "多休息")
@example("头痛", " 多休息")
def test_chatglm2_prompts_and_answers_have_the_originals_ids(
    both: Both, question: str, answer: str
) -> None:
    prompt = f"[Round 1]\n\n问：{question}\n\n答："
    assert encode_prompt(both.two, question) == [*FRONT, *ids(prompt)]
    [sample] = Rendering.of(both.two).encode(Row.of(question, answer, "row 1"), 10_000)
    assert sample.prompt_ids == [*FRONT, *ids(prompt)]
    assert sample.answer_ids == [*ids(answer), EOS]  # tokenised apart, then the end


@settings(max_examples=200, deadline=None)
@given(PLAIN.filter(str.strip), PLAIN.filter(bool))
@example("\n头痛 ", "\n")
def test_chatglm3_prompts_and_answers_have_the_originals_ids(
    both: Both, question: str, answer: str
) -> None:
    prompt = [*FRONT, USER, *ids("\n"), *ids(question), ASSISTANT]
    assert encode_prompt(both.three, question) == prompt
    [sample] = Rendering.of(both.three).encode(Row.of(question, answer, "row 1"), 10_000)
    assert sample.prompt_ids == prompt
    assert sample.answer_ids == [*ids("\n"), *ids(answer), EOS]


HISTORY = [("头痛", "多休息"), ("发烧", "多喝水")]


def test_chatglm2_numbers_rounds_from_one(both: Both) -> None:
    text = (
        "[Round 1]\n\n问：头痛\n\n答：多休息\n\n[Round 2]\n\n问：发烧\n\n答：多喝水\n\n"
        "[Round 3]\n\n问：咳嗽\n\n答："
    )
    assert encode_prompt(both.two, "咳嗽", HISTORY) == [*FRONT, *ids(text)]
    system = [{"role": "system", "content": "你是医生"}, {"role": "user", "content": "头痛"}]
    rendered = both.two.apply_chat_template(system, tokenize=False, add_generation_prompt=True)
    assert rendered == "[gMASK]<sop>[Round 1]\n\n问：你是医生\n头痛\n\n答："
    with pytest.raises(Exception, match="must alternate user, assistant"):
        both.two.apply_chat_template(system[1:] * 2, tokenize=False)


def test_chatglm3_has_a_token_for_every_role(both: Both) -> None:
    expected = [*FRONT]
    for question, answer in HISTORY:
        expected += [USER, *ids("\n"), *ids(question), ASSISTANT, *ids("\n"), *ids(answer)]
    expected += [USER, *ids("\n"), *ids("咳嗽"), ASSISTANT]
    assert encode_prompt(both.three, "咳嗽", HISTORY) == expected
    turns = [{"role": "system", "content": "你是医生"}, {"role": "user", "content": ""}]
    rendered = both.three.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    found = both.three.encode(rendered, add_special_tokens=False)
    line = ids("\n")
    assert found == [*FRONT, SYSTEM, *line, *ids("你是医生"), USER, *line, ASSISTANT]
    with pytest.raises(Exception, match="a role must be system, user, assistant or observation"):
        both.three.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def _with(change: Any) -> bytes:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(sentencepiece_model())
    change(proto)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"not a model", r"not a sentencepiece model: is it ChatGLM2's\? Get tokenizer.model of"),
        (
            sentencepiece_model(normalization_rule_name="nmt_nfkc"),
            r"expected identity normalisation.*Get tokenizer.model of THUDM/chatglm2-6b again",
        ),
        (sentencepiece_model(add_dummy_prefix=False), r"expected a blank in front of texts"),
        (sentencepiece_model(user_defined_symbols=["甲乙"]), r"user-defined or unused pieces"),
        (_with(lambda proto: proto.pieces.pop(2)), r"lacks the piece </s>"),
        (_with(lambda p: p.pieces.add(piece="[MASK]")), r"has \[MASK\] as a piece"),
        (
            _with(lambda p: [p.pieces.add(piece=f"{n}x") for n in range(9)]),
            r"tokenizer.model and the special tokens of ChatGLM2 need 454 rows, .* has 452",
        ),
    ],
    ids=["text", "normalising", "no-blank", "user-defined", "no-eos", "clash", "too-large"],
)
def test_another_tokenizer_is_refused(tmp_path: Path, model: bytes, message: str) -> None:
    hub = write_release(tmp_path / "hub", "chatglm2")
    (hub / "tokenizer.model").write_bytes(model)
    with pytest.raises(TrainingError, match=message):
        convert_chatglm(hub, tmp_path / "out")
    assert not (tmp_path / "out").exists()
