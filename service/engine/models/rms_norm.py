"""RMSNorm on a CPU in one pass: vLLM has such a kernel there, and calls it on GPUs alone."""

import torch
from vllm.model_executor.layers.layernorm import RMSNorm

LANES = 16  # the kernel takes whole vectors of so many numbers


@RMSNorm.register_oot
class OnePassRMSNorm(RMSNorm):
    """What vLLM builds wherever a model has an RMSNorm; the weights are the same."""

    def forward_cpu(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As RMSNorm's, shapes [..., hidden]; x and residual may be overwritten, as on a GPU.

        Only float32 takes the kernel. In 16 bits it would round once where transformers rounds
        before the weight and after, and tokens would differ.
        """
        if not self._fits(x):
            return self.forward_native(x, residual)
        weight, epsilon = self.weight.data, self.variance_epsilon
        if residual is None:
            out = torch.empty_like(x)
            torch.ops._C.rms_norm.default(out, x, weight, epsilon)
            return out
        torch.ops._C.fused_add_rms_norm.default(x, residual, weight, epsilon)
        return x, residual

    def _fits(self, x: torch.Tensor) -> bool:
        return (
            x.dtype == torch.float32 == self.weight.dtype
            and x.is_contiguous()
            and x.shape[-1] % LANES == 0
            and self.has_weight
            and self.variance_size_override is None
        )
