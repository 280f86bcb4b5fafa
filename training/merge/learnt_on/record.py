"""quantization.json: from which form of a base an adapter was learnt."""

from dataclasses import asdict, dataclass
from pathlib import Path

from training.errors import TrainingError
from training.files import parsing, read_json, write_json
from training.weights.safetensors_stream import TORCH_NAMES

RECORD = "quantization.json"
SCHEMES = ("nf4", "int8")
CODES = {name: code for code, name in TORCH_NAMES.items()}


@dataclass(frozen=True)
class BaseQuantisation:
    """A base in `dtype` whose linear layers hold what `scheme` makes of their weights.

    They computed in `dtype` as well, with the values that weights.blockwise.dequantised gives.
    """

    scheme: str
    dtype: str

    @property
    def code(self) -> str:
        """Of the dtype, in safetensors."""
        return CODES[self.dtype]

    def write(self, directory: Path) -> None:
        """Write it into the directory of an adapter, or of a base that has been dequantised."""
        write_json(directory / RECORD, asdict(self))


@dataclass(frozen=True)
class LearntOn:
    """What a merge tells of quantised bases, in notes and in provenance.json."""

    notes: list[str]
    details: dict[str, object]


def read_record(directory: Path) -> BaseQuantisation | None:
    """Return what the directory says; None where it says nothing.

    Raises TrainingError when the record is damaged, or of another version.
    """
    path = directory / RECORD
    if not path.exists():
        return None
    with parsing(path, "the record of a quantised base"):
        found = BaseQuantisation(**read_json(path))
    if found.scheme not in SCHEMES or found.dtype not in CODES:
        raise TrainingError(f"{path}: {found.scheme} in {found.dtype} is not known here")
    return found
