"""The matrix product of every linear layer: cuBLAS, but for decode steps whose time is that of reading the weight."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ..operator import Operator

_FEW_ROWS = 32
# Output features, 32 a program, that keep most multiprocessors of the largest GPUs busy for one wave; cuBLAS, which
# splits sums, is the faster for all others.
_ONE_WAVE = range(96 * 32, 132 * 32 + 1)


@triton.jit
def _row_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, size, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows, lanes = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    weight_at = weight_ptr + rows.to(tl.int64)[:, None] * size + lanes[None]
    acc = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        x = tl.load(x_ptr + start + lanes).to(tl.float32)
        acc += tl.load(weight_at + start, eviction_policy="evict_first").to(tl.float32) * x[None]
    out = tl.sum(acc, axis=1)
    if HAS_BIAS:
        out += tl.load(bias_ptr + rows).to(tl.float32)
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty))


@triton.jit
def _few_rows_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, rows, size, features,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns, lanes, row = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, BLOCK), tl.arange(0, ROWS)
    x_at = x_ptr + row[:, None] * size + lanes[None]
    weight_at = weight_ptr + columns.to(tl.int64)[:, None] * size + lanes[None]
    mask = (row < rows)[:, None]
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, size, BLOCK):
        x = tl.load(x_at + start, mask=mask, other=0.0)
        acc = tl.dot(x, tl.trans(tl.load(weight_at + start, eviction_policy="evict_first")), acc)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + columns).to(tl.float32)[None]
    tl.store(out_ptr + row[:, None] * features + columns[None], acc.to(out_ptr.dtype.element_ty), mask=mask)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """One row by dot products in registers, up to 32 rows by small tiles in one wave, all else by cuBLAS.

    The kernels read the weight once, whole rows a program, so that nothing is added up between programs: products by
    rows as in the BLAS (Dongarra et al., 1988 and 1990), accumulated in float32. Moves
    2 * (out * in + rows * (in + out)) bytes in 16-bit types.

    Args:
        x: (..., in), float16, bfloat16 or, for cuBLAS alone, float32.
        weight: (out, in), contiguous, of x's dtype.
        bias: (out,), likewise.

    Returns:
        (..., out), contiguous, of x's dtype.
    """
    features, size = weight.shape
    rows = x.numel() // max(1, size)
    most_rows = _FEW_ROWS if features in _ONE_WAVE else 1
    if x.dtype == torch.float32 or not 0 < rows <= most_rows or size % 512 or features % 32 or not x.is_contiguous():
        return functional.linear(x, weight, bias)
    out = x.new_empty(*x.shape[:-1], features)
    if rows == 1:
        block = next(block for block in (2048, 1024, 512) if size % block == 0)
        features_a_program, warps = (2, 2) if block == 512 else (4, 4)
        _row_kernel[(features // features_a_program,)](
            x, weight, bias, out, size, bias is not None, features_a_program, block, num_warps=warps
        )
    else:
        tile = 16 if rows <= 16 else 32
        _few_rows_kernel[(features // 32,)](
            x, weight, bias, out, rows, size, features, bias is not None, tile, 32, 256,
            num_warps=2, num_stages=5,
        )  # fmt: skip
    return out


class Linear(Operator):
    """x @ weight.T + bias. Layers own their weights and hand them over, so that one class serves all of them."""

    def forward_native(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiplies.

        Args:
            x: (..., in).
            weight: (out, in).
            bias: (out,).

        Returns:
            (..., out).
        """
        return functional.linear(x, weight, bias)

    def forward_cuda(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return linear(x, weight, bias)


__all__ = ["Linear"]
