import csv
from pathlib import Path
from typing import Any

import pytest

from client.errors import InputError
from client.rows import read_rows, write_csv, write_rows


def put(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "in.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no rows"),
        (b"\xef\xbb\xbf\n \n", "no rows"),
        (b'{"input": "a"}\n{"input": ', ":2: broken JSON"),
        (b'{"input": "a"} {"input": "b"}', ":1: broken JSON"),
        (b'{"input": "a"}\n\n["b"]', ":3: expected a JSON object, found list"),
        (b'{"target": ""}', ':1: the field "input" is missing'),
        (b'{"input": null}', ':1: the field "input" is not a string'),
        (b'{"input": "\xff"}', ":1: not UTF-8"),
        ("{}".encode("utf-16"), ":1: not UTF-8"),
        (b'{"input": "\\ud83d"}', ":1: half of a surrogate pair"),
        (b"[" * 100_000, ":1: broken JSON"),
        (
            b'{"sample_id": "t-1", "input": "a"}\n{"sample_id": "t-1", "input": "b"}',
            ':2: sample_id "t-1" is already used in line 1',
        ),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = put(tmp_path, content)
    with pytest.raises(InputError) as problem:
        read_rows(path, "input")
    assert str(problem.value).startswith(str(path))
    assert message in str(problem.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_rows(tmp_path / "none.json")


def test_a_bom_crlf_and_blank_lines_are_no_matter(tmp_path: Path) -> None:
    path = put(tmp_path, b'\xef\xbb\xbf{"input": "a"}\r\n\r\n{"input": "b"}')
    assert read_rows(path, "input").rows == [{"input": "a"}, {"input": "b"}]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    path = tmp_path / "out.json"
    write_rows(path, [{"input": text}, {"input": "b"}])
    assert read_rows(path, "input").rows == [
        {"input": text},
        {"input": "b"},
    ]


def test_what_cannot_be_written_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = put(tmp_path, b"old")
    with pytest.raises(UnicodeEncodeError):
        write_rows(path, [{"input": "a"}, {"input": "\ud800"}])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_is_readable_for_others(tmp_path: Path) -> None:
    write_rows(tmp_path / "out.json", [{"input": "a"}])
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("", ""),
        ("感冒", "感冒"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1+cmd|x", "'-1+cmd|x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\n=1", "'\n=1"),
        ("\t=1", "'\t=1"),
        ("\rx", "'\rx"),
        ("\uff1d1", "'\uff1d1"),
        ("1=1", "1=1"),
        ("a-b", "a-b"),
        (None, ""),
        ([1], "[1]"),
    ],
)
def test_no_cell_of_a_table_is_run_as_a_formula(tmp_path: Path, text: Any, cell: str) -> None:
    write_csv(tmp_path / "table.csv", [{"=name": text, "other": "x"}])
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["'=name", "other"]
    assert row == [cell, "x"]
