"""One calibration: a model and rows in, a checked model directory with weights of 4 bits out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.formats import Layout
from training.data.settings import Mode
from training.files import sha256, write_aside
from training.gptq.layers import Plan
from training.gptq.rows import drawn_rows
from training.merge.composition import compose
from training.merge.prefix_files import refuse_prefixed
from training.model_directory.directory import read_model_directory
from training.model_directory.model_files import copy_model_files
from training.model_directory.provenance import write_provenance
from training.weights.shards import plan_shards, total_size

if TYPE_CHECKING:
    from training.gptq.sweep import Rounding

SHARD = 256 * 10**6
"""Bytes of a file at most; as many wait in memory for their turn."""


@dataclass(frozen=True)
class Calibration:
    """What a model is calibrated on: `samples` rows of a file, of at most `max_length` tokens."""

    data: Path
    layout: Layout = field(default_factory=Layout)
    samples: int = 128
    max_length: int = 512
    seed: int = 42
    thinking: Mode | None = None


@dataclass
class Report:
    """What was done: samples and their tokens, each layer's errors, bytes, files, notes."""

    samples: int
    tokens: int
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Shares by layer: of its weights, its outputs, and its outputs without GPTQ."""
    size: int = 0
    files: int = 0
    notes: list[str] = field(default_factory=list)


def calibrate(
    model: Path,
    output: Path,
    calibration: Calibration,
    group: int = 128,
    ignore: Sequence[str] = (),
) -> Report:
    """Quantise `model` to int4, calibrated on a user's own rows; write the directory `output`.

    `group` columns of a weight share a scale; `ignore`: regular expressions of layers to leave.
    Raises TrainingError for bad input, or what cannot be done right; no output then.
    """
    with write_aside(output) as aside:
        base = read_model_directory(model)
        refuse_prefixed(base)
        parts = compose(base, [])
        plan = Plan.of(base, parts, group, ignore)
        notes = copy_model_files(base, [], aside, parts.config, parts.rows)
        rows = drawn_rows(
            calibration.data, calibration.layout, calibration.samples, calibration.seed
        )
        from training.gptq import encoding, sweep, writing  # late: they take torch's seconds

        ids = encoding.encoded(model, rows, calibration.max_length, calibration.thinking)
        report = Report(len(ids), sum(map(len, ids)), notes=base.notes + notes)
        shards = plan_shards([*parts.planned(), *plan.targets()], aside, SHARD, None)
        layers = _noted(sweep.rounded_layers(base, plan, ids), report)
        sums = writing.write(shards, parts.parts, layers)
        report.size, report.files = total_size(shards), len(shards)
        write_provenance(aside, model, [], sums, _details(calibration, report, group))
    return report


def _noted(layers: "Iterator[Rounding]", report: Report) -> "Iterator[Rounding]":
    """Put each layer's errors into the report as it passes by."""
    for layer in layers:
        report.errors |= {name: made.errors for name, made in layer.items()}
        yield layer


def _details(calibration: Calibration, report: Report, group: int) -> dict[str, object]:
    """For provenance.json."""
    data = {"name": calibration.data.name, "sha256": sha256(calibration.data)}
    settings = {"max_length": calibration.max_length, "seed": calibration.seed}
    return {
        "dtype": "as in the base",
        "quantisation": {"method": "gptq", "bits": 4, "group_size": group},
        "calibration": {
            **{"data": data, "samples": report.samples, "tokens": report.tokens},
            **settings,
        },
        "check": {"quantisation": report.errors},
    }
