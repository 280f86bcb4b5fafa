"""What ends up in the output, whatever the server does."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.errors import ClientError, InputError, JournalError, RefusedError
from client.prediction.job import Job, predict
from client.prediction.window import Pace
from tests.client.conftest import FAST, read_output, rows
from tests.client.stub import Break, Fault, Json, Refusal, Stub, answer_to, event, failure, running

MakeJob = Callable[..., Job]


def expected(count: int = 40) -> list[dict[str, object]]:
    return [{**row, "target": answer_to(str(row["input"]))} for row in rows(count)]


def test_answers_lose_the_white_space_around_them(job: MakeJob, stub: Stub) -> None:
    stub.twist = lambda events: [
        {**e, "generated_text": f" {e['generated_text']}\n"} for e in events
    ]
    assert not predict(job())
    assert read_output(job().output) == expected()


def test_every_field_and_the_order_are_kept_and_target_is_filled(job: MakeJob) -> None:
    assert predict(job()) == {}
    output = read_output(job().output)
    assert output == expected()
    assert [list(row) for row in output] == [list(row) for row in rows(40)]


def test_parameters_and_the_key_go_with_every_list(job: MakeJob, stub: Stub) -> None:
    predict(job(parameters={"max_tokens": 5}, api_key="secret"))
    assert len(stub.requests) == 5
    assert all(request["parameters"] == {"max_tokens": 5} for request in stub.requests)
    assert all(request["stream"] is True for request in stub.requests)
    assert stub.authorizations == {"Bearer secret"}


def test_a_finished_run_done_again_asks_nothing_and_can_restore_the_output(
    job: MakeJob, stub: Stub
) -> None:
    predict(job())
    before, asked = job().output.read_bytes(), len(stub.asked)
    job().output.unlink()
    assert predict(job()) == {}
    assert job().output.read_bytes() == before
    assert len(stub.asked) == asked


def test_a_finished_run_needs_no_server(job: MakeJob) -> None:
    predict(job())
    assert predict(job(urls=("http://127.0.0.1:1",))) == {}


@pytest.mark.parametrize(
    "fault",
    [
        Refusal(429, {"error": "busy"}, {"Retry-After": "0.1"}),
        Refusal(503, {"error": "draining", "error_type": "unavailable"}),
        Refusal(500, {"error": "oops"}),
        Refusal(502, {}),
        Break(after=0),
        Break(after=3),
        Break(after=3, reset=True),
        lambda events: events[:5],
        lambda events: events + events,
        lambda events: [event(99, "x"), event(-1, "y"), *events],
        lambda events: [failure(e["index"], "unavailable") for e in events],
        lambda events: [failure(0, "internal_error"), *[e for e in events if e["index"]]],
        lambda events: [{**e, "finish_reason": "abort"} for e in events],
        lambda events: [{**e, "generated_text": None} for e in events],
        lambda events: [{**e, "generated_text": "\ud800"} for e in events],
        lambda events: [{"error": "the engine died", "error_type": "internal_error"}],
    ],
    ids=lambda fault: "" if callable(fault) else str(fault),
)
def test_a_passing_fault_costs_a_retry_and_no_row(job: MakeJob, stub: Stub, fault: Fault) -> None:
    stub.faults += [fault, fault]
    assert predict(job()) == {}
    assert read_output(job().output) == expected()


def test_the_servers_retry_after_is_honoured(
    job: MakeJob, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr("client.prediction.dispatch.asyncio.sleep", nap)
    stub.faults.append(Refusal(429, {"error": "busy"}, {"Retry-After": "7"}))
    assert predict(job()) == {}
    assert [int(seconds) for seconds in naps] == [7]


def test_a_busy_server_is_not_held_against_the_rows(
    job: MakeJob, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.prediction.dispatch._LONGEST_BACK_OFF_S", 0.01)
    stub.faults += [Refusal(429, {"error": "busy"})] * 60
    assert predict(job()) == {}


def test_rows_finished_before_a_break_are_not_asked_again(job: MakeJob, stub: Stub) -> None:
    stub.faults.append(Break(after=5))
    predict(job(pace=Pace(batch_size=8, connections=1, model_wait=20)))
    assert len(stub.asked) == 40 + 3


def test_a_refused_item_is_listed_and_nothing_is_written(job: MakeJob, stub: Stub) -> None:
    def spot(events: list[Json]) -> list[Json]:
        marked = answer_to(str(rows(8)[7]["input"]))
        return [
            failure(e["index"], "invalid_request", "too long")
            if e["generated_text"] == marked
            else e
            for e in events
        ]

    stub.twist = spot
    assert predict(job()) == {"test-49": "too long (error_type invalid_request)"}
    assert not job().output.exists()
    assert len(stub.asked) == 40
    stub.twist = None
    assert predict(job()) == {}
    assert read_output(job().output) == expected()
    assert len(stub.asked) == 41


def test_an_item_that_always_fails_is_given_up(
    job: MakeJob, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.prediction.dispatch._LONGEST_BACK_OFF_S", 0.01)
    stub.twist = lambda events: [failure(e["index"], "internal_error", "oops") for e in events]
    missing = predict(job())
    assert len(missing) == 40
    assert len(stub.asked) == 40 * 8
    assert set(missing.values()) == {"given up after 8 tries: oops (error_type internal_error)"}


def test_bad_parameters_stop_the_run_with_the_servers_words(job: MakeJob, stub: Stub) -> None:
    bad = {"error": "must be >= 1", "error_type": "invalid_request", "param": "max_tokens"}
    stub.faults += [Refusal(400, bad)] * 3
    with pytest.raises(RefusedError, match=r"400: must be >= 1 \(.*param max_tokens\)"):
        predict(job(parameters={"max_tokens": 0}))
    assert len(stub.requests) <= 3


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"parameters": {"max_tokens": 1}}, "another parameters"),
        ({"input": "other"}, "another input"),
    ],
)
def test_resume_under_changed_facts_is_refused_by_name(
    job: MakeJob, stub: Stub, tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    predict(job())
    asked = len(stub.asked)
    if "input" in changes:
        other = tmp_path / "other.json"
        other.write_bytes(job().input.read_bytes().replace(b'["', b'[ "'))
        changes = {"input": other}
    with pytest.raises(JournalError, match=f"{word}.*--restart"):
        predict(job(**changes))
    assert len(stub.asked) == asked
    assert predict(job(**changes, restart=True)) == {}
    assert len(stub.asked) == asked + 40


@pytest.mark.parametrize("complete", [True, False])
def test_resume_with_another_model_is_refused(job: MakeJob, stub: Stub, complete: bool) -> None:
    if not complete:
        stub.twist = lambda events: [
            failure(e["index"], "invalid_request") if e["index"] == 0 else e for e in events
        ]
    predict(job())
    stub.model, stub.twist = "other", None
    with pytest.raises(JournalError, match=r'another model \(model was "demo", is "other"\)'):
        predict(job())


def test_a_model_trained_again_under_the_same_name_is_another(job: MakeJob, stub: Stub) -> None:
    stub.fingerprint = "0123"
    assert not predict(job())
    stub.fingerprint = "4567"
    with pytest.raises(JournalError, match=r'another fingerprint .fingerprint was "0123"'):
        predict(job())
    assert not predict(job(restart=True))


def test_an_output_without_journal_is_not_overwritten_unasked(job: MakeJob) -> None:
    job().output.write_text("precious")
    with pytest.raises(InputError, match="--restart"):
        predict(job())
    assert job().output.read_text() == "precious"
    assert predict(job(restart=True)) == {}


def test_the_input_is_never_the_output(job: MakeJob) -> None:
    with pytest.raises(InputError, match="name another file to write"):
        predict(job(output=job().input))


def test_a_server_killed_in_mid_run_and_started_again_loses_nothing(job: MakeJob) -> None:
    first = Stub(delay=0.02)
    first.start()
    finished: list[dict[str, str]] = []
    run = threading.Thread(target=lambda: finished.append(predict(job(urls=(first.url,)))))
    run.start()
    while len(_journaled(job())) < 10:
        time.sleep(0.001)
    first.kill()
    done = _journaled(job())
    with running(Stub(first.port)) as second:
        run.join(60)
        assert finished == [{}]
        assert read_output(job().output) == expected()
        assert not done & set(second.asked)


def test_a_server_that_comes_back_with_another_model_is_refused(job: MakeJob) -> None:
    first = Stub(delay=0.2)
    first.start()
    problems: list[ClientError] = []

    def attempt() -> None:
        try:
            predict(job(urls=(first.url,)))
        except ClientError as problem:
            problems.append(problem)

    run = threading.Thread(target=attempt)
    run.start()
    while len(_journaled(job())) < 5:
        time.sleep(0.001)
    first.kill()
    with running(Stub(first.port, model="other")) as second:
        run.join(60)
        assert not second.asked
    assert "now serves another model: was demo, is other" in str(problems)


def test_an_answer_of_another_model_is_refused_and_not_kept(job: MakeJob, stub: Stub) -> None:
    stub.twist = lambda events: [{**e, "model": "other"} for e in events]
    with pytest.raises(JournalError, match="now serves another model: was demo, is other"):
        predict(job())
    assert not _journaled(job())


def test_two_runs_on_one_output_do_not_mix(job: MakeJob, stub: Stub) -> None:
    stub.delay = 0.1
    run = threading.Thread(target=lambda: predict(job()))
    run.start()
    while not stub.asked:
        time.sleep(0.001)
    with pytest.raises(JournalError, match="in use by another run"):
        predict(job())
    run.join()
    assert len(stub.asked) == 40


def test_answers_cut_at_max_tokens_are_told(
    job: MakeJob, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.twist = lambda events: [{**e, "finish_reason": "length"} for e in events]
    predict(job(pace=FAST))
    assert "40 answers were cut at max_tokens" in capsys.readouterr().out


def _journaled(job: Job) -> set[str]:
    """The prompts of the rows that the journal holds."""
    inputs = [str(row["input"]) for row in rows(40)]
    if not job.journal.exists():
        return set()
    lines = job.journal.read_bytes().split(b"\n")[1:-1]
    return {inputs[json.loads(line)["entry"]["index"]] for line in lines}
