"""Root mean square normalisation, alone or fused with the residual's addition."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import nn

from ..operator import Operator


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, stride, size, eps, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    x = tl.load(x_ptr + row * stride + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row * size + columns, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_ptr + row * size + columns, x.to(residual_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0)
    normed = (x * scale).to(weight_ptr.dtype.element_ty)
    tl.store(out_ptr + row * size + columns, (normed * weight).to(out_ptr.dtype.element_ty), mask=mask)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """One program a row; moves (2 + 2 with a residual) * rows * size elements.

    Args:
        x: (..., size), any dtype; the last dimension contiguous.
        weight: (size,).
        eps: added to the mean square.
        residual: contiguous, like `x`; overwritten by x + residual.

    Returns:
        The normalised rows, contiguous, like `x`.
    """
    size = x.shape[-1]
    rows = x.reshape(-1, size)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    block = triton.next_power_of_2(size)
    warps = max(1, min(16, block // 512))
    if rows.shape[0]:
        _rms_norm_kernel[(rows.shape[0],)](
            rows, residual, weight, out, rows.stride(0), size, eps, residual is not None, block, num_warps=warps
        )
    return out.view(x.shape)


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
        out = rms_norm(x, self.weight, self.variance_epsilon, residual)
        return out if residual is None else (out, residual)


__all__ = ["RMSNorm"]
