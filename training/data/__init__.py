"""From files of rows to batches of token ids."""

from training.data.formats import Layout
from training.data.messages import Row
from training.data.rows import load_rows, read_rows

__all__ = ["Layout", "Row", "load_rows", "read_rows"]
