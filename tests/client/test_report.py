"""The report: true figures, nothing from elsewhere, and no text that could act."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from client.prediction.journal import open_journal
from client.promptcblue.gold import read_files
from client.promptcblue.scoring import score
from client.report import main
from tests.paths import SCORING

GOLD = SCORING / "v00_perfect.predictions.jsonl"
MADE = SCORING / "v08_punct_width.predictions.jsonl"
NASTY = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x00\x1b[31m"
CHINESE = "全角\u3000空格，零宽\u200b字，👨\u200d⚕️"


class Reader(HTMLParser):
    """Tags, attributes and texts as a browser would take them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def report(tmp_path: Path, predictions: Path, *more: str) -> Reader:
    output = tmp_path / "report.html"
    asked = ["--gold", str(GOLD), "--predictions", str(predictions), "--output", str(output)]
    assert main([*asked, *more]) == 0
    return Reader(output.read_text("utf-8"))


def test_it_shows_the_figures_of_score(tmp_path: Path) -> None:
    shown = report(tmp_path, MADE).text
    scores = score(*read_files(GOLD, [MADE]))[0]
    mean = scores.overall
    assert f"{mean.value:.2%}" in shown
    for name, task in scores.tasks.items():
        assert f"{name}: {task.score.value:.2%} {task.metric}" in shown
    assert f"{mean.lenient:.2%} instead of {mean.value:.2%}" in shown
    assert "half-width punctuation (rows)" in shown


def test_a_second_file_stands_beside_the_first(tmp_path: Path) -> None:
    other = SCORING / "v05_empty_half.predictions.jsonl"
    shown = report(tmp_path, MADE, "--compare", str(other)).text
    second = score(*read_files(GOLD, [MADE, other]))[1]
    step = second.overall.difference
    assert step is not None
    assert f"{step.value:+.2%}" in shown
    assert f"{step.interval.text('+.1%')}, {step.words}" in shown
    assert f"{second.same_texts} of 192 answers" in shown


def test_what_a_model_says_stays_text(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in GOLD.read_text("utf-8").splitlines()]
    for row in rows:
        row["target"] = row["input"] = NASTY + CHINESE
    nasty = tmp_path / "nasty.json"
    nasty.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    read = report(tmp_path, nasty)
    assert "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>&amp;" in read.text
    assert not read.tags & {"script", "img", "link", "iframe", "a"}
    assert read.attributes <= {
        "charset", "class", "content", "http-equiv", "lang", "name", "scope", "style", "tabindex",
        "title",
    }  # fmt: skip
    assert CHINESE in read.text
    assert not re.search("[\x00-\x08\x0b-\x1f]", read.text)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    report(tmp_path, MADE)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|url\(|@import|src=|href=", page)
    assert "default-src 'none'" in page


def test_lengths_and_latencies_come_from_the_journal(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    made.write_bytes(MADE.read_bytes())
    assert "No journal" in report(tmp_path, made).text
    row = json.loads(MADE.read_text("utf-8").split("\n")[0])
    entry = {"sample_id": row["sample_id"], "generated_text": row["target"] + "\n", "seconds": 1.5}
    with open_journal(made.with_name("made.json.journal")) as journal:
        journal.begin({"model": "demo-7b"})
        usage = {"completion_tokens": 7}
        journal.record({**entry, "index": 0, "finish_reason": "length", "usage": usage})
        # a row that is not in the file, and one with another answer
        journal.record({**entry, "index": 1, "sample_id": "other", "seconds": 99})
        journal.record({**entry, "index": 2, "generated_text": "other", "seconds": 99})
    with journal.path.open("a") as file:
        file.write("torn")
    shown = report(tmp_path, made).text
    assert "demo-7b: " in shown
    assert "median 1.5, 95 % up to 1.5, longest 1.5 s" in shown
    assert "longest 7 tokens" in shown
    assert "1 of 1 answers were cut at max_tokens" in shown


def test_another_runs_journal_tells_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made.json"
    made.write_bytes(MADE.read_bytes())
    with open_journal(made.with_name("made.json.journal")) as journal:
        journal.begin({"model": "glm-9b"})
        journal.record({"index": 0, "sample_id": "dev-1", "generated_text": "", "seconds": 9})
    shown = report(tmp_path, made).text
    assert "glm-9b" not in shown
    assert "No journal" in shown


def test_a_structured_gold_file_has_no_lengths_of_texts(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    gold = SCORING / "dev_structured.json"
    asked = ["--gold", str(gold), "--predictions", str(MADE), "--output", str(output)]
    assert main(asked) == 0
    shown = Reader(output.read_text("utf-8")).text
    assert "predicted: median" in shown
    assert "gold: median" not in shown


@pytest.mark.parametrize("output", ["report.html", "made.json", "none/report.html"])
def test_what_does_not_fit_is_told_and_nothing_is_written(
    tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.json"
    content = MADE.read_bytes()
    before = content.split(b"\n", 1)[1] if output == "report.html" else content  # a row is missing
    made.write_bytes(before)
    asked = ["--gold", str(GOLD), "--predictions", str(made), "--output", str(tmp_path / output)]
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["made.json"]
    assert made.read_bytes() == before
