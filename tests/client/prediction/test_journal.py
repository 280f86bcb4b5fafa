import json
import random
from pathlib import Path

import pytest

from client.errors import JournalError
from client.prediction.journal import open_journal

FACTS = {"input": "abc", "parameters": {"stop": "\u2028。"}, "model": "demo"}


def fill(path: Path, count: int) -> list[dict[str, object]]:
    answers: list[dict[str, object]] = [
        {"index": index, "generated_text": f"答\u2028\n{index}", "finish_reason": "stop"}
        for index in range(count)
    ]
    with open_journal(path) as journal:
        journal.begin(FACTS)
        for answer in answers:
            journal.record(answer)
    return answers


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    answers = fill(tmp_path / "j", 5)
    with open_journal(tmp_path / "j") as journal:
        assert list(journal.answers.values()) == answers
        assert journal.model == "demo"
        assert journal.damaged == 0
        journal.refuse_change(FACTS)


def test_every_line_is_json_on_the_disk_before_record_returns(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        journal.begin(FACTS)
        journal.record({"index": 3})
        lines = (tmp_path / "j").read_bytes().split(b"\n")
    assert [json.loads(line)["entry"].get("index") for line in lines[:-1]] == [None, 3]
    assert lines[-1] == b""


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    answers = fill(path, 4)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with open_journal(path) as journal:
            whole = content[:cut].count(b"\n") - 1
            assert list(journal.answers.values()) == answers[: max(whole, 0)]
            journal.begin(FACTS)
            journal.record({"index": 99, "generated_text": "a"})
        with open_journal(path) as journal:
            assert 99 in journal.answers
            assert journal.damaged == 0


def test_a_damaged_line_does_not_count_and_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path, 4)
    lines = path.read_bytes().split(b"\n")
    source = random.Random(3)
    for _ in range(50):
        place = source.randrange(len(lines[2]))
        damaged = bytearray(lines[2])
        damaged[place] = ord("x") if damaged[place] != ord("x") else ord("y")
        path.write_bytes(b"\n".join([*lines[:2], bytes(damaged), *lines[3:]]))
        with open_journal(path) as journal:
            assert sorted(journal.answers) == [0, 2, 3]
            assert journal.damaged == 1


@pytest.mark.parametrize("name", ["input", "parameters", "model"])
def test_a_changed_fact_is_refused_and_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "j", 1)
    with (
        open_journal(tmp_path / "j") as journal,
        pytest.raises(JournalError, match=f"another {name} .*--restart"),
    ):
        journal.begin({**FACTS, name: "new"})


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"sample_id": "test-1"}\n')
    with pytest.raises(JournalError, match="not the header"), open_journal(path):
        pass
    assert path.read_text() == '{"sample_id": "test-1"}\n'


def test_restart_begins_anew_whatever_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text("nonsense\n")
    with open_journal(path, restart=True) as journal:
        assert journal.answers == {}
        journal.begin(FACTS)
    assert path.read_bytes().startswith(b'{"crc32":')


def test_a_second_opener_is_refused_even_for_a_restart(tmp_path: Path) -> None:
    fill(tmp_path / "j", 2)
    with (
        open_journal(tmp_path / "j"),
        pytest.raises(JournalError, match="in use"),
        open_journal(tmp_path / "j", restart=True),
    ):
        pass
    with open_journal(tmp_path / "j") as journal:
        assert len(journal.answers) == 2


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(JournalError, match=r"cannot open .*No such file"),
        open_journal(tmp_path / "no" / "j"),
    ):
        pass
