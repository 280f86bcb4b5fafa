"""What late.py imports when an adapter needs it."""

from training.merge.learnt_on.base import dequantised_base
from training.merge.learnt_on.comparison import compare
from training.merge.learnt_on.losses import compare_losses

__all__ = ["compare", "compare_losses", "dequantised_base"]
