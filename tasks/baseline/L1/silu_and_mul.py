"""The gated activation of SwiGLU blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_MANY_ROWS = 32


@triton.jit
def _silu_and_mul_kernel(x_ptr, out_ptr, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(x_ptr + row * stride + columns, mask=mask, eviction_policy="evict_first").to(tl.float32)
    up = tl.load(x_ptr + row * stride + size + columns, mask=mask, eviction_policy="evict_first").to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(x[..., :d]) * x[..., d:], computed in float32 (Shazeer, 2020); moves 6 * rows * d bytes in 16-bit types.

    Args:
        x: (..., 2 * d), any floating-point dtype; strided rows are read in place.

    Returns:
        (..., d), contiguous, of x's dtype.
    """
    size = x.shape[-1] // 2
    rows = (x if x.stride(-1) == 1 else x.contiguous()).reshape(-1, 2 * size)
    out = torch.empty(rows.shape[0], size, dtype=x.dtype, device=x.device)
    # A single row fills no GPU unless it is cut up small.
    most, warps = (1024, 8) if rows.shape[0] >= _MANY_ROWS else (256, 2)
    block = min(next_power_of_2(size), most)
    if out.numel():
        _silu_and_mul_kernel[(rows.shape[0], cdiv(size, block))](
            rows, out, rows.stride(0), size, block, num_warps=warps
        )
    return out.view(*x.shape[:-1], size)


class SiluAndMul(Operator):
    """silu(gate) * up, gate being the first half of the last dimension (Shazeer, 2020)."""

    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """Gates: (..., 2 * d) to (..., d)."""
        gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up).to(x.dtype)

    def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:
        return silu_and_mul(x)


__all__ = ["SiluAndMul"]
