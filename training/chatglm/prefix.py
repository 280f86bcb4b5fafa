"""P-tuning v2: trained keys and values that every layer sees before the text."""

import torch
from torch import nn


class Prefix(nn.Module):
    """The prefix of all layers, [2 · layers, heads, P, head_dim]: keys at 2l, values at 2l + 1.

    Trained as a table [P, 2 · layers · hidden], or through a two-layer network on a table
    [P, hidden] (`projection_size` is its inner width), which `folded` leaves behind.
    Source: arXiv:2110.07602.
    """

    def __init__(
        self,
        tokens: int,
        layers: int,
        heads: int,
        head_dim: int,
        projection_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens, self.layers, self.heads, self.head_dim = tokens, layers, heads, head_dim
        hidden = heads * head_dim
        width = 2 * layers * hidden
        self.embedding = nn.Embedding(tokens, hidden if projection_size else width)
        self.trans = None
        if projection_size:
            self.trans = nn.Sequential(
                nn.Linear(hidden, projection_size), nn.Tanh(), nn.Linear(projection_size, width)
            )
        self.dropout = nn.Dropout(dropout)

    def folded(self) -> torch.Tensor:
        """The table [P, 2 · layers · hidden] that the network, if any, makes."""
        table = self.embedding.weight
        return table if self.trans is None else self.trans(table)

    def forward(self) -> torch.Tensor:
        """The prefix [2 · layers, heads, P, head_dim]."""
        table = self.folded().view(self.tokens, 2 * self.layers, self.heads, self.head_dim)
        return self.dropout(table).permute(1, 2, 0, 3)
