"""Other fields in, other files out."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.errors import InputError
from client.prediction.job import Job, predict
from tests.client.conftest import read_output
from tests.client.stub import answer_to

MakeJob = Callable[..., Job]


def test_the_prompt_may_have_another_field_and_the_rows_may_be_a_table(
    job: MakeJob, tmp_path: Path
) -> None:
    path, table = tmp_path / "other.json", tmp_path / "table.csv"
    asked = [{"question": f"问，{index}\n", "tags": [index], "note": None} for index in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    other = job(input=path, prompt_column="question", csv=table)
    assert not predict(other)
    answered = [{**row, "target": answer_to(str(row["question"])).strip()} for row in asked]
    assert read_output(other.output) == answered
    with table.open(encoding="utf-8-sig", newline="") as file:
        assert [*csv.DictReader(file)] == [
            {**row, "tags": f"[{index}]", "note": ""} for index, row in enumerate(answered)
        ]
    for taken in (path, other.output, other.journal):
        with pytest.raises(InputError, match="is an input or a folder"):
            predict(replace(other, csv=taken))
    with pytest.raises(InputError, match='the field "input" is missing'):
        predict(job(input=path))
