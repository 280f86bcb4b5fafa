"""The benchmark's sixteen tasks and the splits drawn from them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from training.demo import dialogue, extraction, labels, pairs
from training.demo.draft import Draft
from training.errors import TrainingError

SplitRow = dict[str, Any]


class Task(NamedTuple):
    """A task's official names and the rule that makes its samples."""

    dataset: str
    kind: str
    make: Callable[[Random], Draft]


TASKS = (
    Task("CMeEE-V2", "ner", extraction.medical_entities),
    Task("CMeIE", "spo_generation", extraction.relations),
    Task("CHIP-CDN", "normalization", extraction.standard_terms),
    Task("CHIP-CDEE", "event_extraction", extraction.clinical_events),
    Task("CHIP-MDCFNPC", "attr_cls", dialogue.finding_states),
    Task("CHIP-CTC", "cls", labels.trial_criterion),
    Task("CHIP-STS", "cls", pairs.same_question),
    Task("KUAKE-QIC", "cls", labels.search_intent),
    Task("KUAKE-IR", "matching", pairs.answer_relevance),
    Task("KUAKE-QQR", "matching", pairs.query_relation),
    Task("KUAKE-QTR", "matching", pairs.title_match),
    Task("IMCS-V2-NER", "ner", extraction.dialogue_entities),
    Task("IMCS-V2-DAC", "cls", labels.dialogue_act),
    Task("IMCS-V2-SR", "attr_cls", dialogue.symptom_states),
    Task("IMCS-V2-MRG", "report_generation", dialogue.consultation_report),
    Task("MedDG", "response_generation", dialogue.doctor_reply),
)
LABEL_TASKS = (
    "KUAKE-QIC", "CHIP-CTC", "CHIP-STS", "IMCS-V2-DAC", "KUAKE-IR", "KUAKE-QQR", "KUAKE-QTR",
)  # fmt: skip


def write_splits(folder: Path, sizes: Mapping[str, int], seed: int) -> None:
    """Write train.json, dev.json, test.json and test_gold.json into `folder`.

    `sizes` gives samples per task by split name. Targets in test.json are empty, as in the
    benchmark; test_gold.json holds them.
    """
    splits = make_splits(sizes, seed)
    for name, rows in splits.items():
        write_split(folder / f"{name}.json", rows)
    write_split(folder / "test_gold.json", splits["test"])
    write_split(folder / "test.json", [row | {"target": ""} for row in splits["test"]])


def make_splits(sizes: Mapping[str, int], seed: int) -> dict[str, list[SplitRow]]:
    """Draw the splits; no input occurs twice, in one split or in two."""
    splits: dict[str, list[SplitRow]] = {name: [] for name in sizes}
    for task in TASKS:
        rng = Random(f"{task.dataset} {seed}")
        drafts = distinct_drafts(task, rng, sum(sizes.values()))
        for name, size in sizes.items():
            splits[name] += [_row(task, drafts.pop()) for _ in range(size)]
    for name, rows in splits.items():
        Random(f"{name} {seed}").shuffle(rows)
        for number, row in enumerate(rows, 1):
            row["sample_id"] = f"{name}-{number}"
    return splits


def distinct_drafts(task: Task, rng: Random, count: int) -> list[Draft]:
    """`count` samples of one task whose inputs differ in more than a trailing "答："."""
    found: dict[str, Draft] = {}
    for _ in range(50 * count):
        draft = task.make(rng)
        found.setdefault(draft.input.removesuffix("\n答："), draft)
        if len(found) == count:
            return list(found.values())
    raise TrainingError(
        f"{task.dataset}: the demo's rules give only {len(found)} distinct samples of the "
        f"{count} requested: request fewer"
    )


def write_split(path: Path, rows: list[SplitRow]) -> None:
    """One JSON object a line, UTF-8, LF."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode())


def read_split(path: Path) -> list[SplitRow]:
    """The rows of a file that `write_split` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _row(task: Task, draft: Draft) -> SplitRow:
    return {
        "input": draft.input,
        "target": draft.target,
        "answer_choices": draft.choices,
        "task_type": task.kind,
        "task_dataset": task.dataset,
        "sample_id": "",
    }
