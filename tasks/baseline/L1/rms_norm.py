"""Root mean square normalisation, alone or fused with the residual's addition."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import nn

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_FEW_ELEMENTS = 1 << 18  # of rows that do not fill the largest GPUs: each its own program, for latency counts


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, rows, inner, outer_stride, inner_stride, size, eps,
    HAS_RESIDUAL: tl.constexpr, UNIT_OFFSET: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (columns < size)[None]
    x_at = x_ptr + ((row // inner) * outer_stride + (row % inner) * inner_stride)[:, None] + columns[None]
    at = row[:, None] * size + columns[None]
    # What is read for the last time leaves the cache to what is written, which the next operator reads.
    x = tl.load(x_at, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_ptr + at, x.to(residual_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=columns < size, other=0.0)
    if UNIT_OFFSET:
        out = x * scale[:, None] * (1.0 + weight.to(tl.float32))[None]
    else:
        out = (x * scale[:, None]).to(weight_ptr.dtype.element_ty) * weight[None]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A program holds a whole row in registers, or several short ones (Zhang and Sennrich, 2019).

    Moves 4 * x.numel() bytes in 16-bit types, 8 * x.numel() with a residual.

    Args:
        x: (..., size), any floating-point dtype; heads of a packed projection, strided (tokens, heads, size), are read
            in place.
        weight: (size,), of x's dtype.
        eps: added to the mean square.
        residual: like `x`; overwritten by x + residual where it is contiguous.
        unit_offset: scales by 1 + weight, and rounds once, after the weight.

    Returns:
        The normalised rows and x + residual, both contiguous and shaped like `x`.
    """
    size = x.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    residual = None if residual is None else residual.contiguous()
    x = x if x.stride(-1) == 1 else x.contiguous()
    x = x if x.dim() == 3 else x.reshape(-1, 1, size)
    rows, block = x.shape[0] * x.shape[1], next_power_of_2(size)
    few = rows * block <= _FEW_ELEMENTS
    by_program = 1 if few else max(1, 2048 // block)
    warps = max(1, min(16, by_program * block // (256 if few or residual is not None else 512)))
    if rows:
        _rms_norm_kernel[(cdiv(rows, by_program),)](
            x, residual, weight, out, rows, x.shape[1], x.stride(0), x.stride(1), size, eps,
            residual is not None, unit_offset, by_program, block, num_warps=warps,
        )  # fmt: skip
    return out, residual


class RMSNorm(Operator):
    """x / rms(x) * weight over the last dimension, statistics in float32 (Zhang and Sennrich, 2019).

    Args:
        hidden_size: size of the last dimension.
        eps: added to the mean square.
        var_hidden_size: not supported.
        has_weight: False scales by one.
        dtype: the weight's; None takes the default dtype.
    """

    donates = ("x", "residual")

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        var_hidden_size: int | None = None,
        has_weight: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if var_hidden_size not in (None, hidden_size):
            raise ValueError("var_hidden_size is not supported")
        self.hidden_size, self.variance_epsilon = hidden_size, eps
        weight = torch.ones(hidden_size, dtype=dtype)
        if has_weight:
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.register_buffer("weight", weight, persistent=False)

    def forward_native(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Normalises.

        Args:
            x: (..., hidden_size).
            residual: like `x`; added first.

        Returns:
            The normalised rows, like `x`; with a residual also x + residual, rounded to x's dtype.
        """
        dtype = x.dtype
        wide = x.to(torch.promote_types(dtype, torch.float32))
        if residual is not None:
            wide = wide + residual.to(wide.dtype)
            residual = wide.to(dtype)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        out = (normed.to(self.weight.dtype) * self.weight).to(dtype)
        return out if residual is None else (out, residual)

    def forward_cuda(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        out, residual = rms_norm(x, self.weight, self.variance_epsilon, residual)
        return out if residual is None else (out, residual)


__all__ = ["RMSNorm"]
