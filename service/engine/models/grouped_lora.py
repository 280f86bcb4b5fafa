"""LoRA on a CPU: one product for each adapter in the step.

vLLM's own way copies A and B for every token of the step, [tokens, out, rank]: 1 GiB for one
projection to 4,096 at rank 16, 4,096 tokens and float32.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Group = tuple[int, "slice | torch.Tensor"]  # an adapter's slot, and the rows that use it


class GroupedLoRA(PunicaWrapperCPU):
    """What vLLM calls beside each layer that adapters change.

    Stacked weights have shapes [slots, 1, rank, in] for A and [slots, 1, out, rank] for B.
    """

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Before every step: which rows use which adapter."""
        super().update_metadata(*args, **kwargs)
        self._tokens = group(self.token_lora_indices)
        self._sampled = group(self.sampler_indices)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, *_: Any, **__: Any
    ) -> None:
        """Add x Bᵀ to y [tokens, hidden]; x are A's columns for the tokens, [tokens, rank]."""
        expand(self._tokens, y, x, lora_b_stacked)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add scale · x Aᵀ Bᵀ to the logits y [sampled, vocabulary]; x is [sampled, hidden]."""
        buffer = x.new_zeros((len(x), lora_b_stacked.shape[-1]), dtype=torch.float32)
        shrink(self._sampled, buffer, x, lora_a_stacked, scale)
        expand(self._sampled, y, buffer, lora_b_stacked)

    def _apply_shrink(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float
    ) -> None:
        shrink(self._tokens, y.view(-1, y.shape[-1]), x, w_t_all, scale)

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        part = y[:, y_offset : y_offset + y_slice_size]
        if not add_inputs:
            part.zero_()
        expand(self._tokens, part, x, w_t_all)


def group(slots: torch.Tensor) -> list[Group]:
    """The rows of each adapter; `slots` has one for each row, -1 for none. A run is a slice."""
    groups: list[Group] = []
    for slot in sorted(set(slots.tolist()) - {-1}):
        rows = (slots == slot).nonzero().squeeze(1)
        first, end = int(rows[0]), int(rows[-1]) + 1
        groups.append((slot, slice(first, end) if end - first == len(rows) else rows))
    return groups


def shrink(
    groups: list[Group], y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: float
) -> None:
    """Set y [rows, rank] to scale · x Aᵀ, with x [rows, in]; rows of no group stay as they are."""
    for slot, rows in groups:
        y[rows] = scale * (x[rows].to(y.dtype) @ a[slot, 0].to(y.dtype).T)


def expand(groups: list[Group], y: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> None:
    """Add x Bᵀ to y [rows, out], with x [rows, rank].

    A vocabulary may be padded otherwise in the model than in B: what both have is added.
    """
    width = min(y.shape[1], b.shape[-2])
    for slot, rows in groups:
        y[rows, :width] += x[rows].to(y.dtype) @ b[slot, 0, :width].to(y.dtype).T
