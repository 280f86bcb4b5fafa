"""From files of rows to batches of token ids."""

from training.data.rows import Row, read_rows

__all__ = ["Row", "read_rows"]
