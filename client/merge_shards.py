"""Put the outputs of all shards together: the file that one run would have written.

python client/merge_shards.py --input test.json --output test_predictions.json shard-*.json
With --wait it may be started beside the runs that write them: each appears when it is complete.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script, perhaps from a bare clone: find the package beside us
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from client.errors import InputError, ends_with_code
from client.pipes import run
from client.predict_testset import seconds
from client.prediction.job import journal_of
from client.prediction.journal import differing, read_header
from client.prediction.selection import Selection
from client.rows import Row, read_rows, refuse_overwriting, write_rows

_LOOK_EVERY_S = 1.0


def merge(source: Path, shards: Sequence[Path], output: Path) -> int:
    """Write all rows of `source`, with the shards' targets, in its order; return their number.

    The shards may be given in any order. Raises InputError, and writes nothing, when one is
    missing, fits no part of the input, or was made with another model or other parameters.
    """
    refuse_overwriting(output, source, *shards)
    _refuse_different_runs(shards)
    rows = read_rows(source).rows
    merged: list[Row | None] = [None] * len(rows)
    for path in shards:
        answered = read_rows(path, "target").rows
        places = _places(path, answered, rows, merged, len(shards))
        for place, row in zip(places, answered, strict=True):
            merged[place] = row
    write_rows(output, [row for row in merged if row is not None])
    return len(rows)


def _places(
    path: Path, answered: list[Row], rows: list[Row], merged: list[Row | None], count: int
) -> list[int]:
    """Where in the input this shard's rows are."""
    questions = [_question(row) for row in answered]
    for first in range(min(count, len(rows))):
        places = Selection(shard=(first, count)).indices(rows)
        if merged[first] is None and questions == [_question(rows[place]) for place in places]:
            return places
    raise InputError(
        f"{path} is not one of {count} shards of the input, or is there twice. "
        "Give the outputs of all shards, each once, and the input that they were made from"
    )


def _question(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "target"}


def _refuse_different_runs(shards: Sequence[Path]) -> None:
    """Of the shards whose journals are there: all were begun with the same facts."""
    known = [(path, header) for path in shards if (header := read_header(journal_of(path)))]
    for path, header in known[1:]:
        first, other = known[0]
        if differing(other, header) or differing(header, other):
            facts = (json.dumps(each, ensure_ascii=False) for each in (other, header))
            raise InputError(
                f"{first} and {path} are of different runs, by their journals: "
                f"{' and '.join(facts)}. Predict one of them again"
            )


def wait_for(shards: Sequence[Path], patience: float) -> None:
    """Until all are there; after `patience` seconds, raise InputError naming those that are not."""
    deadline = time.monotonic() + patience
    while missing := [path for path in shards if not path.exists()]:
        if time.monotonic() >= deadline:
            raise InputError(
                f"not there after {patience:g} s: {', '.join(map(str, missing))}. A shard's output "
                "appears when all of its rows are answered: look at the runs that write them"
            )
        time.sleep(_LOOK_EVERY_S)


@ends_with_code
def main(arguments: Sequence[str] | None = None) -> int:
    """Merge; 2 when the shards do not make a whole."""
    description = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="merge_shards", description=description)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="the whole test set")
    add("--output", type=Path, required=True, help="its rows with the shards' targets")
    add("--wait", type=seconds, default=0.0, metavar="S", help="for shards that are not there yet")
    add("shards", type=Path, nargs="+", metavar="SHARD", help="what the runs with --shard wrote")
    options = parser.parse_args(arguments)
    if options.wait:
        wait_for(options.shards, options.wait)
    rows = merge(options.input, options.shards, options.output)
    print(f"{options.output}: all {rows} rows of {len(options.shards)} shards")
    return 0


if __name__ == "__main__":
    run(main)
