"""Which adapter answers which row: the same for all, or one by a field, such as the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.errors import InputError
from client.rows import Row


@dataclass(frozen=True)
class AdapterBy:
    """The adapter of a row by the value of its `field`.

    `names` gives the adapter for a value; `pattern` is for all other values and has {} for the
    value. Where there is no pattern, every value needs a name.
    """

    field: str
    names: Mapping[str, str]
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> "AdapterBy":
        """Read `FIELD={}`, `FIELD=prefix-{}` or `FIELD=value:adapter,value:adapter,…`.

        Raises InputError.
        """
        field, _, rules = text.partition("=")
        pairs = [rule.partition(":") for rule in rules.split(",")]
        names = {value: name for value, colon, name in pairs if colon}
        patterns = [rule for rule, colon, _ in pairs if not colon]
        patterned = len(patterns) <= 1 and all("{}" in pattern for pattern in patterns)
        if not (patterned and all([field, *names, *names.values()])):
            raise InputError(
                f"--adapter-by {text}: expected FIELD=value:adapter,value:adapter,… or "
                "FIELD=pattern with {} for the value, such as task_dataset=lora-{}"
            )
        return cls(field, names, *patterns)

    def adapters(self, rows: Sequence[Row], indices: Sequence[int]) -> dict[int, str]:
        """The adapter of each of these rows. Raises InputError where one has none."""
        found = {}
        for index in indices:
            value = rows[index].get(self.field)
            if not isinstance(value, str):
                raise InputError(f"row {index + 1} has no text in {self.field}, for --adapter-by")
            name = self.names.get(value, self.pattern and self.pattern.replace("{}", value))
            if not name:
                raise InputError(
                    f'--adapter-by names no adapter for {self.field} "{value}" (row {index + 1})'
                )
            found[index] = name
        return found
