"""Check a test set's predictions against PromptCBLUE's rules, and pack them for the leaderboard.

python client/submission.py --test test.json --predictions P --output test_predictions.zip
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client import post_generate_process
from client.errors import InputError, ends_with_code
from client.pipes import run
from client.post_generate_process import FIELDS
from client.rows import (
    Row,
    empty_answers,
    read_checked_rows,
    refuse_overwriting,
    written_aside,
)

PREDICTIONS, SCRIPT = "test_predictions.json", "post_generate_process.py"
PROBLEMS_SHOWN = 20


def pack(test: Path, predictions: Path, output: Path) -> list[Row]:
    """Write the zip and return its rows.

    It holds the predictions byte for byte and the script that makes results.json of them. Raises
    InputError with everything that is against the rules; then nothing is written.
    """
    refuse_overwriting(output, test, predictions)
    expected, answered = read_checked_rows(test), read_checked_rows(predictions, loose=False)
    problems = [f"{predictions}:{problem}" for problem in _problems(expected, answered, test)]
    if problems:
        shown = problems[:PROBLEMS_SHOWN]
        rest = [f"… and {len(problems) - len(shown)} more"] if problems[PROBLEMS_SHOWN:] else []
        raise InputError("\n".join(["the predictions break the rules:", *shown, *rest]))
    script = Path(post_generate_process.__file__).read_bytes()
    _write(output, {PREDICTIONS: predictions.read_bytes(), SCRIPT: script})
    return answered


def _problems(expected: list[Row], answered: list[Row], test: Path) -> Iterator[str]:
    """Line by line: the rows of the test set in their order, unchanged, with a target each."""
    for number, (right, made) in enumerate(zip(expected, answered, strict=False), start=1):
        where = f'{number}: sample_id "{made["sample_id"]}"'
        if made["sample_id"] != right["sample_id"]:
            yield f'{where}: {test} has "{right["sample_id"]}" in this line; keep its order'
            return
        yield from (f"{where}: {problem}" for problem in _row_problems(right, made, test))
    surplus = len(answered) - len(expected)
    if surplus < 0:
        yield f"{len(answered) + 1}: missing are the last {-surplus} rows of {test}"
    elif surplus > 0:
        yield f"{len(expected) + 1}: {surplus} rows more than {test} has"


def _row_problems(right: Row, made: Row, test: Path) -> Iterator[str]:
    for field in sorted(made.keys() | right.keys()):
        if field not in FIELDS:
            yield f'the field "{field}" is none of {", ".join(FIELDS)}'
        elif field != "target" and made[field] != right[field]:
            yield f'the field "{field}" is not the one of {test}'


def _write(path: Path, content: dict[str, bytes]) -> None:
    """All of the zip or none; the same content gives the same bytes."""
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; 2 when the predictions do not follow the rules."""
    parser = argparse.ArgumentParser(prog="submission", description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--test", type=Path, required=True, help="the benchmark's test set, as it came")
    add("--predictions", type=Path, required=True, help="what predict_testset.py wrote for it")
    add("--output", type=Path, default=Path("test_predictions.zip"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = pack(options.test, options.predictions, options.output)
    if warning := empty_answers(rows):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.output}: {len(rows)} rows and {SCRIPT}, ready to submit")
    return 0


def command() -> NoReturn:
    """`mergeline-submit`, and this file as a script."""
    run(main)


if __name__ == "__main__":
    command()
