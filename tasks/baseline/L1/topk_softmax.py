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
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lanes, kept = tl.arange(0, WIDTH), tl.arange(0, KEPT)
    inside = (row < rows)[:, None] & (lanes < experts)[None]
    logits = tl.load(logits_ptr + row[:, None] * stride + lanes[None], mask=inside, other=float("-inf")).to(tl.float32)
    peak = tl.max(logits, axis=1)
    peak = tl.where(row < rows, peak, 0.0)
    total = tl.sum(tl.exp(logits - peak[:, None]), axis=1)
    chosen = tl.zeros([ROWS, KEPT], tl.float32)
    ids = tl.zeros([ROWS, KEPT], tl.int32)
    for rank in tl.static_range(TOPK):
        best = tl.max(logits, axis=1)
        first = tl.min(tl.where(logits == best[:, None], lanes[None], WIDTH), axis=1)  # ties: the lowest expert
        first = tl.minimum(first, experts - 1)  # of NaN, none is the largest
        here = kept[None] == rank
        chosen = tl.where(here, tl.exp(best - peak)[:, None], chosen)
        ids = tl.where(here, first[:, None], ids)
        logits = tl.where(lanes[None] == first[:, None], float("-inf"), logits)
    if RENORMALIZE:
        total = tl.sum(chosen, axis=1)
    at = row[:, None] * TOPK + kept[None]
    mask = (row < rows)[:, None] & (kept < TOPK)[None]
    tl.store(weights_ptr + at, chosen / total[:, None], mask=mask)
    tl.store(ids_ptr + at, ids, mask=mask)


def topk_softmax(gating_output: torch.Tensor, topk: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax and selection in one pass over the logits, after vLLM's kernel of that name.

    Reads 2 * rows * experts bytes in 16-bit types and writes 8 * rows * topk.

    Args:
        gating_output: (rows, experts), any floating-point dtype, rows strided.
        topk: experts of a row.
        renormalize: whether a row's weights sum to one.

    Returns:
        Weights (rows, topk) float32 and experts (rows, topk) int32, best first.
    """
    rows, experts = gating_output.shape
    logits = gating_output if gating_output.stride(-1) == 1 else gating_output.contiguous()
    weights = torch.empty(rows, topk, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, topk, dtype=torch.int32, device=logits.device)
    block = 8 if rows >= _MANY_ROWS else 1
    if rows:
        _topk_softmax_kernel[(cdiv(rows, block),)](
            logits, weights, ids, rows, logits.stride(0), experts,
            topk, next_power_of_2(experts), block, next_power_of_2(topk), renormalize,
            num_warps=4 if block > 1 else 1,
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
