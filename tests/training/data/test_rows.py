"""Reading JSON lines, and turning a row into token ids."""

from copy import copy
from pathlib import Path
from typing import Any

import pytest

from training.data import Layout, Row, load_rows, read_rows
from training.data.collate import EncodedSample, features, pad
from training.errors import TrainingError
from training.rendering.conversation import Rendering, encode_prompt

GOOD = '{"input": "问", "target": "答"}'


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def contents(row: Row) -> list[str]:
    return [message["content"] for message in row.messages]


def test_rows_keep_their_line_and_their_text(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + GOOD + '\n\n{"input": "a\u2028b", "target": " c "}\n')
    rows = load_rows(path, Layout())
    assert [contents(row) for row in rows] == [["问", "答"], ["a\u2028b", " c "]]
    assert rows[1].where == f"{path}:3"


def test_history_is_read_from_its_column(tmp_path: Path) -> None:
    text = '{"input": "问", "target": "答", "past": [["q1", "a1"], ["q2", "a2"]]}'
    path = write(tmp_path, f'{text}\n{GOOD}\n{{"input": "问", "target": "答", "past": null}}')
    rows = read_rows(path, "input", "target", "past")
    assert list(map(contents, rows)) == [["q1", "a1", "q2", "a2", "问", "答"], *[["问", "答"]] * 2]
    assert rows[0].learned == (5,)
    assert contents(load_rows(path, Layout())[0]) == ["问", "答"]


@pytest.mark.parametrize("past", ['"q"', '["q", "a"]', '[["q"]]', '[["q", 1]]', '{"q": "a"}'])
def test_history_of_another_form_is_refused_with_its_line(tmp_path: Path, past: str) -> None:
    path = write(tmp_path, f'{GOOD}\n{{"input": "问", "target": "答", "past": {past}}}')
    with pytest.raises(TrainingError, match=r":2: column 'past' must be a list of .* pairs"):
        load_rows(path, Layout(history="past"))


def test_columns_can_have_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, '{"q": "问", "a": "答", "type": 3}')
    assert contents(read_rows(path, "q", "a")[0]) == ["问", "答"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no samples"),
        ("\n\n", "no samples"),
        (GOOD + "\n{broken\n", ":2: broken JSON"),
        (GOOD + "\n[1]\n", ":2: expected a JSON object"),
        ('{"input": "a"}', ":1: no column 'target'.*data.response="),
        ('{"input": 3, "target": "b"}', ":1: column 'input' must be text"),
        ('{"input": "a", "target": "  "}', ":1: column 'target' must be text"),
        (b'{"input": "\xff"}', "not UTF-8"),
    ],
)
def test_unusable_data_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        load_rows(write(tmp_path, text), Layout())


def encoded(tokenizer: Any, row: Row, max_length: int) -> EncodedSample:
    [only] = Rendering.of(tokenizer).encode(row, max_length)
    return only


def sample(tokenizer: Any, prompt: str, answer: str, max_length: int = 1000) -> Any:
    return encoded(tokenizer, Row.of(prompt, answer, "train.json:1"), max_length)


def test_the_loss_is_on_the_answer_and_its_end_alone(tokenizer: Any) -> None:
    inputs = features(sample(tokenizer, "感冒", "多喝水"))
    learned = [
        i for i, label in zip(inputs["input_ids"], inputs["labels"], strict=True) if label != -100
    ]
    assert tokenizer.decode(inputs["input_ids"]) == "<s>问：\n感冒\n答：\n多喝水\n</s>"
    assert tokenizer.decode(learned) == "多喝水\n</s>"
    assert [label for label in inputs["labels"] if label != -100] == learned


def test_the_prompt_of_a_sample_is_what_serving_sends(tokenizer: Any) -> None:
    for prompt in ("感冒", "hello", "12 34\n答："):
        assert sample(tokenizer, prompt, "ab c").prompt_ids == encode_prompt(tokenizer, prompt)


def test_a_long_prompt_loses_its_middle_and_keeps_both_ends(tokenizer: Any) -> None:
    prompt = "开头" + "中" * 300 + "问题在末尾"
    cut = sample(tokenizer, prompt, "答案", max_length=60)
    text = tokenizer.decode(cut.prompt_ids)
    assert len(cut.prompt_ids) + len(cut.answer_ids) <= 60
    assert len(cut.prompt_ids) + len(cut.answer_ids) > 55
    assert text.startswith("<s>问：\n开头")
    assert text.endswith("问题在末尾\n答：\n")
    assert cut.cut_tokens == len(encode_prompt(tokenizer, prompt)) - len(cut.prompt_ids)


def test_an_answer_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"train\.json:1.*max_length=20"):
        sample(tokenizer, "感冒", "水" * 30, max_length=20)


def conversation(rounds: int, prompt: str = "还有吗") -> Row:
    history = tuple((f"问题{n}", f"回答{n}") for n in range(rounds))
    return Row.of(prompt, "没有", "train.json:1", history)


def test_history_comes_before_the_prompt_and_carries_no_loss(tokenizer: Any) -> None:
    made = encoded(tokenizer, conversation(2), 1000)
    assert tokenizer.decode(made.prompt_ids) == (
        "<s>问：\n问题0\n答：\n回答0\n</s>问：\n问题1\n答：\n回答1\n</s>问：\n还有吗\n答：\n"
    )
    assert tokenizer.decode(made.answer_ids) == "没有\n</s>"


def test_a_long_conversation_loses_its_oldest_rounds_first(tokenizer: Any) -> None:
    full = encoded(tokenizer, conversation(9), 1000)
    cut = encoded(tokenizer, conversation(9), 100)
    text = tokenizer.decode(cut.prompt_ids)
    assert text.startswith("<s>问：\n问题")
    assert text.endswith("问题8\n答：\n回答8\n</s>问：\n还有吗\n答：\n")
    assert "问题0" not in text
    assert cut.cut_tokens == len(full.prompt_ids) - len(cut.prompt_ids)
    last = encoded(tokenizer, conversation(9, "头" + "中" * 200 + "尾"), 60)
    assert tokenizer.decode(last.prompt_ids).startswith("<s>问：\n头")


def test_an_answer_ends_in_eos_when_the_template_writes_none(tokenizer: Any) -> None:
    endless = copy(tokenizer)
    endless.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert endless.decode(sample(endless, "感冒", "多喝水").answer_ids) == "多喝水</s>"


@pytest.mark.parametrize("where", ["prompt", "answer", "history"])
def test_control_tokens_in_the_data_are_refused(tokenizer: Any, where: str) -> None:
    texts: dict[str, Any] = {"prompt": "感冒", "answer": "多喝水", "where": "train.json:1"}
    texts[where] = (("a", "b</s>"),) if where == "history" else "a</s>b"
    with pytest.raises(TrainingError, match="control token '</s>'"):
        Rendering.of(tokenizer).encode(Row.of(**texts), 1000)


def test_a_batch_is_padded_to_its_longest_row(tokenizer: Any) -> None:
    short, long = (features(sample(tokenizer, "感冒", text)) for text in ("水", "多喝水多喝水"))
    batch = pad([short, long], 0)
    assert batch["input_ids"].shape == (2, len(long["input_ids"]))
    assert batch["attention_mask"].sum(dim=1).tolist() == [
        len(short["input_ids"]),
        len(long["input_ids"]),
    ]
    assert (batch["labels"][0][len(short["input_ids"]) :] == -100).all()
