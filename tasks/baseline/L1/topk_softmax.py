"""The choice of experts: for each token the most probable ones and their weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_MANY_ROWS = 1024  # from here on a program takes several rows; below, rows are spread over the multiprocessors


@triton.jit
def _topk_softmax_kernel(
    logits_ptr, weights_ptr, ids_ptr, rows, stride, experts,
    TOPK: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEPT: tl.constexpr, RENORMALIZE: tl.constexpr,
    BITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lanes, kept = tl.arange(0, WIDTH), tl.arange(0, KEPT)
    inside = (row < rows)[:, None] & (lanes < experts)[None]
    logits = tl.load(logits_ptr + row[:, None] * stride + lanes[None], mask=inside, other=float("-inf"))
    # A logit's bits, in the order of numbers, above its expert's, reversed: one maximum finds the largest logit and, of
    # equal ones, the lowest expert. The two zeros are equal.
    as_bits: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
    key_type: tl.constexpr = tl.int32 if BITS == 16 else tl.int64
    most: tl.constexpr = (1 << (BITS - 1)) - 1
    least_key: tl.constexpr = -(1 << (2 * BITS - 1))
    bits = logits.to(as_bits, bitcast=True).to(key_type)
    bits = tl.where(bits == -most - 1, 0, bits)
    keys = ((bits ^ ((bits >> BITS) & most)) << BITS) | (WIDTH - 1 - lanes)[None].to(key_type)
    keys = tl.where(inside, keys, least_key)
    best = tl.zeros([ROWS, KEPT], key_type)
    for rank in tl.static_range(TOPK):
        largest = tl.max(keys, axis=1)[:, None]
        best = tl.where(kept[None] == rank, largest, best)
        keys = tl.where(keys == largest, least_key, keys)
    ids = WIDTH - 1 - (best & (WIDTH - 1)).to(tl.int32)
    bits = best >> BITS
    bits = (bits ^ ((bits >> BITS) & most)).to(as_bits)
    chosen = bits.to(logits_ptr.dtype.element_ty, bitcast=True).to(tl.float32)
    in_use = (row < rows)[:, None] & (kept < TOPK)[None]
    peak = tl.max(tl.where(in_use, chosen, float("-inf")), axis=1)
    peak = tl.where(row < rows, peak, 0.0)[:, None]
    weights = tl.where(in_use, tl.exp(chosen - peak), 0.0)
    total = tl.sum(weights if RENORMALIZE else tl.exp(logits.to(tl.float32) - peak), axis=1)
    at = row[:, None] * TOPK + kept[None]
    tl.store(weights_ptr + at, weights / total[:, None], mask=in_use)
    tl.store(ids_ptr + at, ids, mask=in_use)


def topk_softmax(gating_output: torch.Tensor, topk: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax and selection in one pass over the logits, after vLLM's kernel of that name.

    Reads 2 * rows * experts bytes in 16-bit types and writes 8 * rows * topk.

    Args:
        gating_output: (rows, experts), float16, bfloat16 or float32, rows strided.
        topk: experts of a row.
        renormalize: whether a row's weights sum to one.

    Returns:
        Weights (rows, topk) float32 and experts (rows, topk) int32, best first.
    """
    rows, experts = gating_output.shape
    logits = gating_output if gating_output.stride(-1) == 1 else gating_output.contiguous()
    weights = torch.empty(rows, topk, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, topk, dtype=torch.int32, device=logits.device)
    block = 4 if rows >= _MANY_ROWS else 1
    if rows:
        _topk_softmax_kernel[(cdiv(rows, block),)](
            logits, weights, ids, rows, logits.stride(0), experts,
            topk, next_power_of_2(experts), block, next_power_of_2(topk), renormalize, 8 * logits.element_size(),
            num_warps=block,
        )  # fmt: skip
    return weights, ids


class TopkSoftmax(Operator):
    """The `topk` largest logits of each row, weighted by their softmax over all experts.

    Args:
        topk: experts of a token.
        renormalize: divides the weights by their sum.
    """

    def __init__(self, topk: int, renormalize: bool = True) -> None:
        super().__init__()
        self.topk, self.renormalize = topk, renormalize

    def forward_native(self, gating_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Chooses.

        Args:
            gating_output: (tokens, experts), the router's logits.

        Returns:
            Weights (tokens, topk) float32 and experts (tokens, topk) int32, best first; of equal logits the expert
            with the lower number comes first.
        """
        logits = gating_output.to(torch.promote_types(gating_output.dtype, torch.float32))
        ids = logits.sort(dim=-1, descending=True, stable=True).indices[:, : self.topk]
        weights = logits.softmax(-1).gather(-1, ids)
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, ids.to(torch.int32)

    def forward_cuda(self, gating_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return topk_softmax(gating_output, self.topk, self.renormalize)

    def margins(self, gating_output: torch.Tensor) -> torch.Tensor:
        """By how much each choice of a row won over the next: (tokens, topk), the last one over what was not chosen."""
        best = gating_output.sort(dim=-1, descending=True).values[:, : self.topk + 1]
        return best[:, :-1] - best[:, 1:]


__all__ = ["TopkSoftmax"]
