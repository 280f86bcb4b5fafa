"""Which rows of a test set one run asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.errors import InputError
from client.rows import Row


@dataclass(frozen=True)
class Selection:
    """The rows of some `tasks` (all when empty), of them one shard, of that the first `limit`.

    `shard` (i, n) are the rows i, i + n, i + 2n, …: every shard has its part of each task, and
    together the shards 0 to n - 1 are the whole.
    """

    tasks: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)
    limit: int | None = None

    def indices(self, rows: Sequence[Row]) -> list[int]:
        """The places of the selected rows, in order. Raises InputError when there are none."""
        chosen = self._of_tasks(rows) if self.tasks else [*range(len(rows))]
        first, count = self.shard
        chosen = chosen[first::count][: self.limit]
        if not chosen:
            raise InputError(f"--shard {first}/{count} holds no row: the input has fewer rows")
        return chosen

    def _of_tasks(self, rows: Sequence[Row]) -> list[int]:
        known = {str(row.get("task_dataset", "")) for row in rows} - {""}
        unknown = sorted({*self.tasks} - known)
        if unknown:
            raise InputError(
                f"--tasks: the input has no row of {', '.join(unknown)}; "
                f"it has {', '.join(sorted(known)) or 'no field task_dataset'}"
            )
        return [index for index, row in enumerate(rows) if row.get("task_dataset") in self.tasks]
