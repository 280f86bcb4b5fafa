"""One run over a test set: read, ask for what the journal lacks, write the file at the end."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from client.errors import InputError, RefusedError, ServerGoneError, TransientError
from client.prediction.adapters import AdapterBy
from client.prediction.api import Api, first_ready
from client.prediction.dispatch import Dispatch, Questions
from client.prediction.interrupts import run_interruptible
from client.prediction.journal import Entry, Journal, open_journal
from client.prediction.progress import Progress
from client.prediction.selection import Selection
from client.prediction.window import Pace
from client.rows import (
    Row,
    RowFile,
    empty_answers,
    read_rows,
    refuse_overwriting,
    row_name,
    write_csv,
    write_rows,
)

DEMO_INPUT = Path("build/demo/data/test.json")


@dataclass(frozen=True)
class Job:
    """One run: which rows, which servers, how hard to push them (times in seconds).

    `transport` takes the place of the network, for an app in the same process. `waits` says that
    the servers begin with the run: they are waited for even where no row is left to ask, to see
    that the model is still the one that answered.
    """

    urls: tuple[str, ...]
    input: Path = DEMO_INPUT
    output: Path = Path("test_predictions.json")
    parameters: dict[str, Any] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    timeout: float = 600.0
    api_key: str | None = None
    restart: bool = False
    retry_empty: bool = False
    selection: Selection = field(default_factory=Selection)
    adapter_by: AdapterBy | None = None
    prompt_column: str = "input"
    csv: Path | None = None
    transport: httpx.AsyncBaseTransport | None = None
    waits: bool = False

    @property
    def journal(self) -> Path:
        """Where the finished rows of this output are kept."""
        return journal_of(self.output)


def journal_of(output: Path) -> Path:
    """The journal of that output."""
    return output.with_name(output.name + ".journal")


def predict(job: Job) -> dict[str, str]:
    """Write `job.output` once every row has an answer; else return the missing rows' reasons.

    Raises ClientError when the input, the journal or the server does not let the run begin or
    go on. Finished rows stay in the journal in every case.
    """
    source = _read_input(job)
    chosen = job.selection.indices(source.rows)
    with open_journal(job.journal, restart=job.restart) as journal:
        _check_journal(job, journal, source)
        questions = _questions(job, source, chosen, journal)
        done = len(chosen) - len(questions.prompts)
        if done:
            print(f"{done} of {len(chosen)} rows are done already")
        with Progress(len(chosen), done) as progress:
            missing = run_interruptible(lambda: _ask(job, source, questions, journal, progress))
        if progress.rows:
            print(progress.summary())
        if not missing:
            filled = _write_filled(job, source, chosen, journal)
            if warning := empty_answers(filled):
                print(f"warning: {warning}", file=sys.stderr)
            print(f"{job.output}: all {len(chosen)} rows, answered by {journal.model}")
        return {row_name(source.rows[index], index): missing[index] for index in sorted(missing)}


def _questions(job: Job, source: RowFile, chosen: Sequence[int], journal: Journal) -> Questions:
    """What the journal lacks of the chosen rows."""
    if job.retry_empty:
        journal.forget_empty(chosen)
    rows = [index for index in chosen if index not in journal.answers]
    prompts = {index: source.rows[index][job.prompt_column] for index in rows}
    adapters = job.adapter_by.adapters(source.rows, chosen) if job.adapter_by else {}
    return Questions(prompts, job.parameters, adapters)


def _read_input(job: Job) -> RowFile:
    if job.input == DEMO_INPUT and not job.input.exists():
        raise InputError(f"{job.input} is not there: make it with `make demo`, or give --input")
    refuse_overwriting(job.output, job.input)
    if job.csv:
        refuse_overwriting(job.csv, job.input, job.output, job.journal)
    return read_rows(job.input, job.prompt_column)


def _check_journal(job: Job, journal: Journal, source: RowFile) -> None:
    if journal.header is None and job.output.exists() and not job.restart:
        raise InputError(
            f"{job.output} exists and no journal says that this program wrote it. "
            "Move it away, name another --output, or replace it with --restart"
        )
    journal.refuse_change(_facts(job, source))
    if journal.damaged:
        print(f"{journal.path}: {journal.damaged} damaged lines do not count", file=sys.stderr)


def _facts(job: Job, source: RowFile) -> dict[str, Any]:
    """What a journal belongs to; None is what journals had before they knew of a fact."""
    return {
        "input": source.sha256,
        "parameters": job.parameters,
        "adapter_by": asdict(job.adapter_by) if job.adapter_by else None,
        "prompt_column": None if job.prompt_column == Job.prompt_column else job.prompt_column,
    }


async def _ask(
    job: Job, source: RowFile, questions: Questions, journal: Journal, progress: Progress
) -> Mapping[int, str]:
    """Ask for the rows that the journal lacks; return the reason for each still without answer."""

    def record(answer: Entry) -> None:
        row = source.rows[answer["index"]]
        journal.record({**answer, "sample_id": row.get("sample_id")})

    async with AsyncExitStack() as stack:
        named = *questions.adapters.values(), job.parameters.get("adapter")
        adapters = frozenset(name for name in named if isinstance(name, str))
        settings = job.api_key, job.timeout, job.pace.connections, job.transport, adapters
        apis = [await stack.enter_async_context(Api(url, *settings)) for url in job.urls]
        if not questions.prompts:
            if job.waits:
                await first_ready(apis, job.pace.model_wait, progress.note)
            await _notice_other_model(apis, journal)
            return {}
        dispatch = Dispatch(apis, questions, job.pace, record, progress)
        try:
            served = await first_ready(apis, job.pace.model_wait, progress.note)
            journal.begin({**_facts(job, source), **served._asdict()})
            progress.start()
            missing = await dispatch.run(served)
            await _notice_other_model(apis, journal)  # an adapter may be another by now
            return missing
        except ServerGoneError as problem:
            unanswered = [row for row in questions.prompts if row not in journal.answers]
            return dict.fromkeys(unanswered, str(problem)) | dispatch.given_up


async def _notice_other_model(apis: Sequence[Api], journal: Journal) -> None:
    """Refuse to pass old answers off as another model's; a server that is away is no matter."""
    for api in apis:
        with suppress(TransientError, RefusedError):
            journal.refuse_change((await api.served())._asdict())


def _write_filled(job: Job, source: RowFile, chosen: Sequence[int], journal: Journal) -> list[Row]:
    """The rows written, with the answers stripped, as the benchmark's own client did.

    LLaMA is taught to end an answer with a newline, and the official reading of CHIP-CDN, the last
    line, would find nothing after it.
    """
    texts = {index: journal.answers[index]["generated_text"].strip() for index in chosen}
    filled = [source.rows[index] | {"target": text} for index, text in texts.items()]
    write_rows(job.output, filled)
    if job.csv:
        write_csv(job.csv, filled)
    return filled
