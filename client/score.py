"""Compare predictions with the gold answers, task by task: the share that match exactly.

    python client/score.py --gold dev.json --predictions base.json --compare tuned.json

This is exact match of stripped strings, NOT the benchmark's official metric.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import ClientError, InputError
from client.rows import Row, read_rows

# The tasks whose answer is one label: there an exact match says all about a row.
LABEL_TASKS = frozenset(
    {
        "CHIP-CTC",
        "CHIP-STS",
        "IMCS-V2-DAC",
        "KUAKE-IR",
        "KUAKE-QIC",
        "KUAKE-QQR",
        "KUAKE-QTR",
    }
)


def score(gold_path: Path, predictions_path: Path) -> dict[str, Any]:
    """Exact match (0..1) of one file: `overall`, `label_tasks` (None without any) and `tasks`.

    Both overall figures are means over tasks, so a big task counts no more than a small one.
    Raises InputError unless both files hold the same sample_ids.
    """
    gold = read_rows(gold_path, "sample_id", "task_dataset", "target").rows
    answers = _answers(predictions_path, gold, gold_path)
    matches: dict[str, list[bool]] = {}
    for row in gold:
        match = row["target"].strip() == answers[row["sample_id"]].strip()
        matches.setdefault(row["task_dataset"], []).append(match)
    shares = {name: mean(matches[name]) for name in sorted(matches)}
    labelled = [share for name, share in shares.items() if name in LABEL_TASKS]
    return {
        "overall": mean(shares.values()),
        "label_tasks": mean(labelled) if labelled else None,
        "tasks": {
            name: {"metric": "exact_match", "score": share, "rows": len(matches[name])}
            for name, share in shares.items()
        },
    }


def _answers(path: Path, gold: list[Row], gold_path: Path) -> dict[str, str]:
    if not any(row["target"].strip() for row in gold):
        raise InputError(f"{gold_path}: every target is empty; a test set has no gold answers")
    rows = read_rows(path, "sample_id", "target").rows
    answers = {row["sample_id"]: row["target"] for row in rows}
    for missing, where in (
        (sorted({row["sample_id"] for row in gold} - answers.keys()), path),
        (sorted(answers.keys() - {row["sample_id"] for row in gold}), gold_path),
    ):
        if missing:
            raise InputError(
                f"{where} lacks {len(missing)} rows of the other file: {', '.join(missing[:5])}"
                f"{' …' if len(missing) > 5 else ''}. Give predictions for these gold rows"
            )
    return answers


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line a task and one column a result, in percent."""
    tasks = results[0]["tasks"]
    lines = [
        _line(name, tasks[name]["rows"], [result["tasks"][name]["score"] for result in results])
        for name in tasks
    ]
    for label, key, names in (
        ("mean of the label tasks", "label_tasks", LABEL_TASKS & tasks.keys()),
        ("mean of all tasks", "overall", tasks.keys()),
    ):
        if names:
            rows = sum(tasks[name]["rows"] for name in names)
            lines.append(_line(label, rows, [result[key] for result in results]))
    return "\n".join(lines)


def _line(label: str, rows: int, shares: Sequence[float]) -> str:
    return f"{label:<24}{rows:>6} rows" + "".join(f"{share:>10.1%}" for share in shares)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, perhaps write the JSON; 2 when the files do not fit."""
    options = _parser().parse_args(arguments)
    paths = [path for path in (options.predictions, options.compare) if path]
    try:
        results = [score(options.gold, path) for path in paths]
        if options.json:
            _write_json(options.json, results)
    except ClientError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(f"exact match, not the official metric: {' | '.join(map(str, paths))}")
    print(table(results))
    return 0


def _write_json(path: Path, results: Sequence[dict[str, Any]]) -> None:
    content = results[0] if len(results) == 1 else {**results[0], "compare": results[1]}
    try:
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise InputError(f"cannot write {path}: {problem.strerror}") from problem


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="score", description="Exact match, task by task.")
    add = parser.add_argument
    add("--gold", type=Path, required=True, help="JSON lines with the right targets (dev.json)")
    add("--predictions", type=Path, required=True, help="the same rows with a model's targets")
    add("--compare", type=Path, help="another model's predictions, for a second column")
    add("--json", type=Path, metavar="FILE", help="write the scores there, in full precision")
    return parser


if __name__ == "__main__":
    sys.exit(main())
