"""What a run reports: lines, a JSON-lines log, TensorBoard, a plot of the losses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from training.progress import Meter

Entry = dict[str, float]


class Logbook:
    """Writes to `folder`/log.jsonl and `folder`/tensorboard, and shows how far it is.

    A run that goes on after `start` updates takes back what was logged beyond them. Without
    `active` (every process but the first) nothing is written or shown.
    """

    def __init__(self, folder: Path, start: int, updates: int, *, active: bool) -> None:
        self.entries: list[Entry] = []
        self._path = folder / "log.jsonl"
        self._updates = updates
        self._progress = Meter("train", updates, "update", done=start, shown=active)
        self._active = active
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self.entries = _read(self._path, start)
            self._path.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def advance(self) -> None:
        """One more update is done."""
        self._progress.update()

    def record(self, update: int, values: Mapping[str, float]) -> None:
        """Log named values after so many updates."""
        if not self._active:
            return
        entry: Entry = {"update": update, **values}
        self.entries.append(entry)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, update)
        self._board.flush()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.write(f"update {update}/{self._updates}  {shown}")

    def close(self) -> None:
        """No more is coming."""
        self._progress.close()
        if self._active:
            self._board.close()


def plot_losses(entries: Sequence[Entry], path: Path) -> None:
    """Draw `loss` and `eval_loss` over updates into a PNG file."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["update"], entry[name]) for entry in entries if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="update", ylabel="cross-entropy per answer token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _read(path: Path, until: int) -> list[Entry]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = (entry for line in lines if (entry := _entry(line)))
    return [entry for entry in entries if entry["update"] <= until]


def _entry(line: str) -> Entry | None:
    """None for a line that a kill or a power cut left half written."""
    try:
        entry = json.loads(line)
        if "update" in entry and all(type(value) in (int, float) for value in entry.values()):
            return dict(entry)
    except (ValueError, RecursionError, AttributeError, TypeError):
        pass
    return None
