"""A different adapter for each task: which row gets which, and what goes to the server."""

from collections.abc import Callable

import pytest

from client.errors import InputError, JournalError
from client.prediction.adapters import AdapterBy
from client.prediction.job import Job, predict
from tests.client.conftest import read_output, rows
from tests.client.stub import Stub, answer_to

MakeJob = Callable[..., Job]
ROWS = [{"task": name} for name in ("a", "b", "a", "c")]


@pytest.mark.parametrize(
    ("text", "adapters"),
    [
        ("task={}", ["a", "b", "a", "c"]),
        ("task=lora-{}-v2", ["lora-a-v2", "lora-b-v2", "lora-a-v2", "lora-c-v2"]),
        ("task=a:x,b:y,c:x", ["x", "y", "x", "x"]),
        ("task=b:special,lora-{}", ["lora-a", "special", "lora-a", "lora-c"]),
    ],
)
def test_each_row_has_its_adapter(text: str, adapters: list[str]) -> None:
    found = AdapterBy.parse(text).adapters(ROWS, range(4))
    assert [found[index] for index in range(4)] == adapters


@pytest.mark.parametrize("text", ["task", "task=", "={}", "task=a", "task=a:", "task={},{}", ""])
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected FIELD=value:adapter"):
        AdapterBy.parse(text)


def test_a_row_without_adapter_is_refused() -> None:
    with pytest.raises(InputError, match=r'no adapter for task "b" \(row 2\)'):
        AdapterBy.parse("task=a:x,c:y").adapters(ROWS, range(4))
    with pytest.raises(InputError, match="row 1 has no text in kind"):
        AdapterBy.parse("kind={}").adapters(ROWS, range(4))
    assert AdapterBy.parse("task=a:x").adapters(ROWS, [0, 2]) == {0: "x", 2: "x"}


def test_a_list_has_the_rows_of_one_adapter_and_the_output_keeps_its_order(
    job: MakeJob, stub: Stub
) -> None:
    odd_and_even = AdapterBy("input", {str(row["input"]): "odd" for row in rows(40)[1::2]}, "even")
    assert not predict(job(adapter_by=odd_and_even, parameters={"max_tokens": 5}))
    asked = {row["input"]: name for row, name in zip(rows(40), ["even", "odd"] * 20, strict=True)}
    for request in stub.requests:
        names = {asked[prompt] for prompt in request["prompt"]}
        assert [request["parameters"]] == [{"max_tokens": 5, "adapter": name} for name in names]
    assert len(stub.requests) == 6  # lists of 8, 8 and 4, twice
    assert read_output(job().output) == [
        {**row, "target": answer_to(str(row["input"]))} for row in rows(40)
    ]
    with pytest.raises(JournalError, match="another adapter_by"):
        predict(job(parameters={"max_tokens": 5}))
