"""Whatever the rows are and whatever becomes of requests: every row comes out once, as it went in.

Against the real app, in this process and at a real socket; only its engine is made up, so that
each answer belongs to one prompt. What the real engine does is in tests/e2e/test_predict.py.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.errors import RefusedError
from client.prediction.job import Job, predict
from client.prediction.window import Pace
from tests.client.app import AppTransport, EchoEngine, at_a_socket, echo_app, expected
from tests.client.conftest import read_output
from tests.client.faults import Answered, Cut, Fault, FaultyTransport, Garbage, Lost, Mangled

Rows = list[dict[str, Any]]
WITHOUT_TOKENS = st.characters(exclude_categories=["Cs"], exclude_characters="<>")
TEXTS = st.text(WITHOUT_TOKENS, max_size=20)
PROMPTS = TEXTS.filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
NAMES = TEXTS.filter(lambda name: name not in ("input", "target", "sample_id"))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"input": PROMPTS, "sample_id": st.integers() | TEXTS},
        optional={"target": TEXTS, "answer_choices": JSON, "task_dataset": TEXTS},
    ).flatmap(
        lambda row: st.dictionaries(NAMES, JSON, max_size=2).map(lambda more: {**more, **row})
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda row: str(row["sample_id"]),
)
PASSING: st.SearchStrategy[Fault] = st.one_of(
    st.builds(
        Answered,
        st.sampled_from([429, 500, 502, 503, 504]),
        st.sampled_from([None, "0.001", "Wed, 21 Oct 2026 07:28:00 GMT"]),
    ),
    st.builds(
        Lost,
        st.sampled_from(
            [httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError]
        ),
    ),
    st.builds(Cut, st.floats(0, 1), st.booleans()),
    st.builds(Mangled, st.integers(1, 60), st.integers(1, 3), st.booleans(), st.integers(1, 4)),
    st.builds(Garbage, st.binary(max_size=80)),
    st.builds(
        Garbage,
        st.lists(JSON.map(lambda value: f"data: {json.dumps(value)}\n\n".encode())).map(b"".join),
    ),
)
FAULTS = st.lists(PASSING | st.builds(Answered, st.sampled_from([400, 401, 404])), max_size=12)
PACES = st.builds(
    Pace,
    batch_size=st.integers(1, 9),
    connections=st.integers(1, 4),
    model_wait=st.just(20.0),
    latency=st.sampled_from([0.0, 60.0]),
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.prediction.dispatch._LONGEST_BACK_OFF_S", 0.002)


@pytest.fixture(scope="module")
def socket(
    tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EchoEngine, str]]:
    engine = EchoEngine(tokenizer)
    with at_a_socket(echo_app(engine, tmp_path_factory.mktemp("model"))) as url:
        yield engine, url


def check(
    job: Job, engine: EchoEngine, rows: Rows, faults: list[Fault], inner: type["Inner"]
) -> None:
    """Run under `faults`, then again without: the first run is whole or writes nothing."""
    answered = [{**row, "target": expected(engine.tokenizer, row["input"])} for row in rows]
    try:
        missing = len(predict(replace(job, transport=FaultyTransport(inner.make(), faults))))
    except RefusedError:
        missing = -1
    if missing:
        assert not job.output.exists()
    else:
        assert read_output(job.output) == answered
    before = engine.asked
    assert not predict(replace(job, transport=inner.make()))
    assert read_output(job.output) == answered
    assert [list(row) for row in read_output(job.output)] == [list(row) for row in answered]
    if missing >= 0:
        assert engine.asked - before == missing


class Inner:
    """What lies behind the faults."""

    @staticmethod
    def make() -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport()


def job_in(folder: Path, rows: Rows, pace: Pace, url: str) -> Job:
    source = folder / "test.json"
    source.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return Job(urls=(url,), input=source, output=folder / "out.json", pace=pace)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(rows=ROWS, faults=FAULTS, pace=PACES)
def test_over_a_socket_every_row_comes_out_once_as_it_went_in(
    rows: Rows, faults: list[Fault], pace: Pace, socket: tuple[EchoEngine, str]
) -> None:
    engine, url = socket
    with tempfile.TemporaryDirectory() as folder:
        check(job_in(Path(folder), rows, pace, url), engine, rows, faults, Inner)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(rows=ROWS, faults=FAULTS, pace=PACES)
def test_in_process_every_row_comes_out_once_as_it_went_in(
    rows: Rows, faults: list[Fault], pace: Pace, tokenizer: Any
) -> None:
    engine = EchoEngine(tokenizer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        class App(Inner):
            @staticmethod
            def make() -> httpx.AsyncBaseTransport:
                return AppTransport(echo_app(engine, folder))

        check(job_in(folder, rows, pace, "http://app"), engine, rows, faults, App)
