"""The look-up of token embeddings."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_MOST_LANES = 1024


@triton.jit
def _row_kernel(ids_ptr, weight_ptr, out_ptr, size, BLOCK: tl.constexpr):
    token, lanes = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(ids_ptr + token).to(tl.int64)
    mask = lanes < size
    values = tl.load(weight_ptr + row * size + lanes, mask=mask, eviction_policy="evict_first")
    tl.store(out_ptr + token * size + lanes, values, mask=mask)


def look_up(input_ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A program copies a row, or a part of a long one, as torch's index_select does.

    Moves tokens * (4 * size + 8) bytes in 16-bit types.

    Args:
        input_ids: (...) int64, each below the table's rows.
        weight: (rows, size), any dtype, contiguous.

    Returns:
        (..., size), contiguous, of the weight's dtype.
    """
    size = weight.shape[1]
    out = weight.new_empty(*input_ids.shape, size)
    if out.numel():
        block = min(_MOST_LANES, next_power_of_2(size))
        grid = (input_ids.numel(), cdiv(size, block))
        _row_kernel[grid](input_ids.contiguous(), weight, out, size, block, num_warps=2)
    return out


class Embedding(Operator):
    """Rows of a table. The layer owns its table and hands it over."""

    def forward_native(self, input_ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Looks up.

        Args:
            input_ids: (tokens,) int64, each below the table's rows.
            weight: (rows, size).

        Returns:
            (tokens, size).
        """
        return functional.embedding(input_ids, weight)

    def forward_cuda(self, input_ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return look_up(input_ids, weight)


__all__ = ["Embedding"]
