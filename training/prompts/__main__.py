"""Turn structured rows into prompts and answers, by templates of your own."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from training.data.formats import Fields
from training.data.messages import encodable
from training.data.rows import TASK, records, to_fields
from training.errors import TrainingError, refuse
from training.files import write_durably
from training.pipes import run
from training.prompts.template_file import TemplateFile

KEPT = ("answer_choices", "task_type", TASK, "sample_id")
"""Columns that go into the output as they are; PromptCBLUE's scoring reads them."""
EXAMPLES = """\
templates.yaml maps each task (a row's column task_dataset; `default`: any) to jinja templates,
whose variables are the row's columns:

  CMeEE-V2:
    prompts:
      - "找出实体，类型有{{ shuffled(labels) | join('，') }}：\\n{{ text }}\\n答："
      - "{{ text }}\\n上文有哪些{{ labels | join('、') }}？"
    answer: |-
      上述句子中的实体包含：
      {% for type, found in entities | groupby('type') %}
      {{ type }}实体：{{ found | map(attribute='entity') | join('，') }}
      {% endfor %}

example:
  python -m training.prompts --input structured.json --templates templates.yaml \\
      --output train.json --per-row 2 --seed 1

Every row gets --per-row prompts, from different templates. Which ones follows from the seed and
the row's number alone. Rows without what the answer needs are refused, unless the task has none.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing what is wrong."""
    args = _parser().parse_args(argv)
    try:
        if args.output.exists():
            raise TrainingError(f"{args.output} exists: name another output, or remove it")
        templates = TemplateFile.read(args.templates)
        lines = _filled(args.input, templates, args.per_row, args.seed)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_durably(args.output, "".join(lines))
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {len(lines):,} samples")
    return 0


def _filled(path: Path, templates: TemplateFile, per_row: int, seed: int) -> list[str]:
    """Lines of JSON; every row that gives none is named in one error."""
    lines: list[str] = []
    problems = []
    for number, (where, record) in enumerate(records(path)):
        try:
            row = to_fields(record, where)
            lines += _lines(row, templates.fill(row, per_row, f"{seed} row {number}"))
        except ValueError as error:
            problems.append(f"{where}: {error}")
        except TrainingError as error:
            problems.append(str(error))
    refuse(problems)
    if not lines:
        raise TrainingError(f"{path}: no rows in it, expected one JSON object a line")
    return lines


def _lines(row: Fields, filled: list[tuple[str, str]]) -> Iterator[str]:
    """Of several prompts of a row each gets a sample_id of its own."""
    kept = _kept(row)
    for number, (prompt, answer) in enumerate(filled, start=1):
        sample = {"input": prompt, "target": answer, **kept}
        if "sample_id" in kept and len(filled) > 1:
            sample["sample_id"] = f"{kept['sample_id']}-{number}"
        yield encodable(json.dumps(sample, ensure_ascii=False)) + "\n"


def _kept(row: Fields) -> dict[str, object]:
    return {name: row[name] for name in KEPT if name in row}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.prompts",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="FILE",
        help="JSON lines, or a JSON list, of structured rows")  # fmt: skip
    add("--templates", type=Path, required=True, metavar="FILE", help="your templates, in YAML")
    add("--output", type=Path, required=True, metavar="FILE",
        help="JSON lines with input and target, to train on; must not exist")  # fmt: skip
    add("--per-row", type=_count, default=1, metavar="N",
        help="prompts of each row, from different templates (default: 1)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice (default: 0)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of prompts such as 2")
    return int(text)


def command() -> NoReturn:
    """`mergeline-prompts`, and `python -m training.prompts`."""
    run(main)


if __name__ == "__main__":
    command()
