import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from training.demo import SPLIT_SIZES, build_demo
from training.demo.base import Size, frequent_characters, train_sentencepiece
from training.demo.corpus import corpus
from training.demo.draft import Draft
from training.demo.tasks import (
    LABEL_TASKS,
    TASKS,
    SplitRow,
    Task,
    distinct_drafts,
    make_splits,
    read_split,
)
from training.errors import TrainingError
from training.model_directory.tokenizer import tokenizer_from_sentencepiece

FIELDS = ["input", "target", "answer_choices", "task_type", "task_dataset", "sample_id"]
TINY = Size(hidden=64, inner=64, layers=1, heads=2, passages=300, steps=2, batch=2, block=32)
ODD = (
    "", " ", "   a  b ", "\n\n\t\r\n", "🙂👩‍⚕️ 龘靐", "▁a ▁", "3.14＋１２", "naïve Ünï", "e\u0301",
    "\x00\x7f",
    "\u2028行\u3000列", "عربي עברית", "a" * 70,
)  # fmt: skip
LINES = {
    "CMeEE-V2": r"(上述句子中的实体包含：)(\n\w+实体：\S*)+",
    "IMCS-V2-NER": r"(上述句子中的实体包含：)(\n\w+实体：\S*)+",
    "CMeIE": r"(\n?具有\w+关系的头尾实体对如下：(头实体为\S+?，尾实体为\S+?。)*)+",
    "CHIP-CDEE": r"上述句子中的临床发现事件如下："
    r"(\n主体词：\w+；发生状态：(否定|不确定)?；描述词：\w*；解剖部位：\w*)+",
    "CHIP-MDCFNPC": r"上述对话中临床发现实体以及其阴阳性判别如下：(\n\w+：[^：\n]+)+",
    "IMCS-V2-SR": r"当前对话中的症状及其阴阳性判断为：(\n\w+：[^：\n]+)+",
    "IMCS-V2-MRG": r"上述问诊对话的诊疗报告如下："
    r"\n主诉：.+\n现病史：.+\n辅助检查：.+\n既往史：.+\n诊断：.+\n建议：.+",
}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[SplitRow]]:
    return make_splits(SPLIT_SIZES, seed=13)


@pytest.fixture(scope="module")
def rows(splits: dict[str, list[SplitRow]]) -> list[SplitRow]:
    return [row for split in splits.values() for row in split]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    build_demo(output, seed=3, rows={"train": 20, "dev": 2, "test": 2}, size=TINY)
    return output


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo / "base", trust_remote_code=False)


def _sentencepiece(folder: Path, prefix: bool) -> Path:
    """A tokenizer model of the demo's text; `prefix` as real LLaMA models have it."""
    path = folder / "tokenizer.model"
    questions = [row["input"] for row in make_splits(SPLIT_SIZES, seed=13)["train"]]
    train_sentencepiece(corpus(questions, 1000, seed=13), 5600, path)
    if prefix:
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(path.read_bytes())
        proto.normalizer_spec.add_dummy_prefix = True
        path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["no prefix", "dummy prefix"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model in sentencepiece and, saved and loaded again, in transformers."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    path = _sentencepiece(folder, request.param)
    tokenizer_from_sentencepiece(path, 4096).save_pretrained(folder / "fast")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return reference, AutoTokenizer.from_pretrained(folder / "fast")


def test_every_task_has_its_share_of_every_split(splits: dict[str, list[SplitRow]]) -> None:
    for name, size in SPLIT_SIZES.items():
        counts = Counter((row["task_dataset"], row["task_type"]) for row in splits[name])
        assert counts == {(task.dataset, task.kind): size for task in TASKS}
    assert len(TASKS) == 16
    assert len(splits["train"]) >= 800
    assert len(splits["dev"]) == len(splits["test"]) == 160


def test_rows_have_the_benchmarks_fields_and_unique_ids(splits: dict[str, list[SplitRow]]) -> None:
    for name, rows in splits.items():
        assert all(list(row) == FIELDS for row in rows)
        assert {row["sample_id"] for row in rows} == {f"{name}-{i + 1}" for i in range(len(rows))}


def test_no_input_occurs_twice_in_or_across_splits(rows: list[SplitRow]) -> None:
    asked = [row["input"].removesuffix("答：").strip() for row in rows]
    assert len(set(asked)) == len(asked)


def test_answers_have_the_official_formats(rows: list[SplitRow]) -> None:
    for row in rows:
        pattern = LINES.get(row["task_dataset"])
        assert pattern is None or re.fullmatch(pattern, row["target"]), row


def test_answers_keep_to_the_choices_and_choices_stand_in_the_input(rows: list[SplitRow]) -> None:
    for row in rows:
        task, choices = row["task_dataset"], row["answer_choices"]
        if choices:
            assert "，".join(choices) in row["input"]
        if task in LABEL_TASKS and row["target"] != "非上述类型":
            assert row["target"] in choices
        if task == "CHIP-CDN":
            assert set(row["target"].split("，")) <= set(choices)


def test_what_an_answer_extracts_stands_in_the_input(rows: list[SplitRow]) -> None:
    for row in rows:
        if row["task_dataset"] in ("CMeEE-V2", "IMCS-V2-NER"):
            found = "，".join(line.split("：")[1] for line in row["target"].split("\n")[1:])
            assert all(word in row["input"] for word in found.split("，"))


def test_every_label_of_a_label_task_is_trained(splits: dict[str, list[SplitRow]]) -> None:
    labels = {
        name: {(r["task_dataset"], r["target"]) for r in rows if r["task_dataset"] in LABEL_TASKS}
        for name, rows in splits.items()
    }
    assert labels["dev"] | labels["test"] <= labels["train"]


def test_the_data_is_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.demo.tasks import write_splits;"
        "write_splits(Path(sys.argv[1]), {'train': 9, 'test': 3}, 13)"
    )
    written = []
    for hash_seed in ("0", "1"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert make_splits({"train": 9}, 13) != make_splits({"train": 9}, 14)


def test_asking_for_more_samples_than_the_rules_give_is_an_error() -> None:
    task = Task("KUAKE-IR", "matching", lambda rng: Draft(rng.choice("甲乙"), "相关"))
    assert len(distinct_drafts(task, Random(1), 2)) == 2
    with pytest.raises(TrainingError, match="only 2 distinct samples of the 3"):
        distinct_drafts(task, Random(1), 3)


def test_test_targets_are_empty_and_kept_apart(demo: Path) -> None:
    asked, gold = (read_split(demo / "data" / name) for name in ("test.json", "test_gold.json"))
    assert all(row["target"] == "" for row in asked)
    assert all(row["target"] for row in gold)
    assert asked == [row | {"target": ""} for row in gold]


def test_what_is_built_is_kept_and_what_is_missing_is_built(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "data").symlink_to(demo / "data")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine").touch()
    build_demo(tmp_path, size=TINY)
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["mine"]


def test_the_base_reads_no_dev_or_test_row_and_no_answer_after_its_question() -> None:
    splits = make_splits({"train": 30, "dev": 10, "test": 10}, 13)
    text = "\n\n".join(corpus([row["input"] for row in splits["train"]], 3000, 13))
    for row in splits["dev"] + splits["test"]:
        assert row["input"] not in text
    for row in splits["train"]:
        assert f"{row['input']}{row['target']}" not in text
        assert f"{row['input']}\n{row['target']}" not in text


def test_the_base_is_a_complete_model_directory(demo: Path) -> None:
    from transformers import AutoModelForCausalLM

    names = {path.name for path in (demo / "base").iterdir()}
    assert names >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (demo / "base").iterdir())
    model = AutoModelForCausalLM.from_pretrained(demo / "base")
    assert model.config.max_position_embeddings == 4096
    assert json.loads((demo / "base" / "config.json").read_text())["dtype"] == "float32"


def test_ids_equal_sentencepieces_on_all_demo_text(both: Any, rows: list[SplitRow]) -> None:
    reference, fast = both
    texts = [text for row in rows for text in (row["input"], row["target"])]
    texts += ["".join(texts)[start : start + 999] for start in range(0, 20_000, 999)]
    for text in (*texts, *ODD, frequent_characters()):
        ids = fast.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text), text
        assert fast.decode(ids) == reference.decode(ids)


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda t: "<" not in t)
)
def test_ids_equal_sentencepieces_on_any_text(both: Any, text: str) -> None:
    reference, fast = both
    assert fast.encode(text, add_special_tokens=False) == reference.encode(text)


def test_frequent_characters_cost_one_token(tokenizer: Any) -> None:
    for character in frequent_characters():
        assert len(tokenizer.encode(character, add_special_tokens=False)) == 1
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
    assert len(tokenizer.encode("2026", add_special_tokens=False)) == 4


def test_a_file_that_is_no_llama_tokenizer_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "tokenizer.model"
    junk.write_bytes(b"\x0a\xff junk")
    with pytest.raises(TrainingError, match="not a sentencepiece model"):
        tokenizer_from_sentencepiece(junk, 4096)
    with pytest.raises(TrainingError, match="cannot read"):
        tokenizer_from_sentencepiece(tmp_path / "absent.model", 4096)


def _render(tokenizer: Any, *turns: str, system: str = "", ask: bool = True) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    lead = [{"role": "system", "content": system}] if system else []
    text = tokenizer.apply_chat_template(lead + messages, tokenize=False, add_generation_prompt=ask)
    return str(text)


def test_one_question_is_rendered_with_one_bos_and_one_answer_mark(
    tokenizer: Any, rows: list[SplitRow]
) -> None:
    assert _render(tokenizer, " 咳嗽？\n") == "<s>问：\n咳嗽？\n答：\n"
    assert _render(tokenizer, "咳嗽？答：") == "<s>问：\n咳嗽？\n答：\n"
    assert _render(tokenizer, "甲答：乙答：答：") == "<s>问：\n甲答：乙答：\n答：\n"
    for row in rows:
        ids = tokenizer.encode(_render(tokenizer, row["input"]), add_special_tokens=False)
        text = tokenizer.decode(ids)
        assert (ids[0], ids.count(1), ids.count(2)) == (1, 1, 0)
        assert text.endswith("\n答：\n")
        assert text.count("答：") == 1


def test_an_answer_continues_its_prompt_up_to_the_end_token(tokenizer: Any) -> None:
    whole = _render(tokenizer, "咳嗽？", "感冒", ask=False)
    assert whole == _render(tokenizer, "咳嗽？") + "感冒\n</s>"


def test_several_turns_and_a_system_message_share_one_bos(tokenizer: Any) -> None:
    text = _render(tokenizer, "一", "二", "三", system=" 请简答。")
    assert text == "<s>问：\n请简答。\n一\n答：\n二\n</s>问：\n三\n答：\n"


def test_turns_out_of_order_are_refused(tokenizer: Any) -> None:
    from jinja2 import TemplateError

    for roles in (("assistant",), ("user", "user"), ("user", "system"), ("tool",)):
        messages = [{"role": role, "content": "x"} for role in roles]
        with pytest.raises(TemplateError, match="alternate"):
            tokenizer.apply_chat_template(messages, tokenize=False)
