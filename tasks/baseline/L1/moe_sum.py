"""The sum of what a token's experts say."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2


@triton.jit
def _moe_sum_kernel(x_ptr, out_ptr, size, TOPK: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(TOPK):
        at = x_ptr + (row * TOPK + choice) * size + columns
        total += tl.load(at, mask=mask, eviction_policy="evict_first").to(tl.float32)
    tl.store(out_ptr + row * size + columns, total.to(out_ptr.dtype.element_ty), mask=mask)


def moe_sum(x: torch.Tensor) -> torch.Tensor:
    """Sums the middle dimension in float32, after vLLM's moe_sum.

    Moves 2 * (topk + 1) * tokens * size bytes in 16-bit types.

    Args:
        x: (tokens, topk, size), any floating-point dtype.

    Returns:
        (tokens, size), contiguous, of x's dtype.
    """
    x = x.contiguous()
    tokens, topk, size = x.shape
    out = torch.empty(tokens, size, dtype=x.dtype, device=x.device)
    block = min(next_power_of_2(size), 1024)
    if out.numel():
        _moe_sum_kernel[(tokens, cdiv(size, block))](x, out, size, topk, block, num_warps=4)
    return out


class MoeSum(Operator):
    """The sum over a token's choices, already weighted."""

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """Sums: (tokens, topk, size) to (tokens, size)."""
        return x.to(torch.promote_types(x.dtype, torch.float32)).sum(1).to(x.dtype)

    def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:
        return moe_sum(x)


__all__ = ["MoeSum"]
