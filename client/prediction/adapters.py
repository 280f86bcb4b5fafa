"""Which adapter answers which row: the same for all, or one by a field, such as the task."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.errors import InputError
from client.rows import Row

_NAMED, _PATTERN = "([^:,]+):([^,]+)", r"[^:,]*\{\}[^:,]*"
_RULES = re.compile(
    f"(?P<field>[^=]+)=(?P<rules>({_NAMED},)*((?P<pattern>{_PATTERN})|{_NAMED})(,{_NAMED})*)"
)


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
        found = _RULES.fullmatch(text)
        if not found:
            raise InputError(
                f"--adapter-by {text}: expected FIELD=value:adapter,value:adapter,… or "
                "FIELD=pattern with {} for the value, such as task_dataset=lora-{}"
            )
        return cls(found["field"], dict(re.findall(_NAMED, found["rules"])), found["pattern"])

    def adapters(self, rows: Sequence[Row], indices: Sequence[int]) -> dict[int, str]:
        """The adapter of each of these rows. Raises InputError where one has none."""
        return {index: self._adapter(rows[index], index + 1) for index in indices}

    def _adapter(self, row: Row, number: int) -> str:
        value = row.get(self.field)
        if not isinstance(value, str):
            raise InputError(f"row {number} has no text in {self.field}, for --adapter-by")
        name = self.names.get(value) or (self.pattern or "").replace("{}", value)
        if not name:
            raise InputError(
                f'--adapter-by names no adapter for {self.field} "{value}" (row {number})'
            )
        return name
