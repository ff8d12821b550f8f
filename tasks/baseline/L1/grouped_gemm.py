"""The matrix products of experts: every choice of a token times the weight of its expert."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..operator import Operator
from ..tiling import cdiv, steps_at_16_bytes

_MANY_ROWS = 256  # of an expert on average: the device is then busy for long enough to hide a descriptor's launch


@triton.jit
def _grouped_gemm_kernel(
    x_ptr, weights, out_ptr, scales_ptr, order_ptr, experts_ptr, total_ptr,
    slots, columns, depth, x_stride, expert_stride, row_blocks,
    TOP_K: tl.constexpr, SCALED: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    pid, column_blocks = tl.program_id(0), tl.cdiv(columns, COLUMNS)
    first = pid // (GROUP * column_blocks) * GROUP
    together = min(row_blocks - first, GROUP)
    within = pid % (GROUP * column_blocks)
    block, column_block = first + within % together, within // together
    if block * ROWS < tl.load(total_ptr):
        slot = tl.load(order_ptr + block * ROWS + tl.arange(0, ROWS))
        real = slot < slots
        column, lanes = column_block * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
        inside = column < columns
        expert = tl.load(experts_ptr + block)
        x_at = x_ptr + (slot // TOP_K).to(tl.int64)[:, None] * x_stride + lanes[None]
        if TMA:
            first_row = expert * columns + column_block * COLUMNS
        else:
            # Columns past the end read the first one instead: the store leaves them out.
            row = tl.where(inside, column, 0).to(tl.int64)
            weight_at = weights + expert.to(tl.int64) * expert_stride + row[None] * depth + lanes[:, None]
        acc = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, depth, DEPTH):
            left = lanes < depth - start
            x = tl.load(x_at + start, mask=real[:, None] if EVEN else real[:, None] & left[None], other=0.0)
            if TMA:
                weight = weights.load([first_row, start]).T
            elif EVEN:
                weight = tl.load(weight_at + start)
            else:
                weight = tl.load(weight_at + start, mask=left[:, None], other=0.0)
            acc += tl.dot(x, weight, input_precision="ieee")
        if SCALED:
            acc *= tl.load(scales_ptr + slot, mask=real, other=0.0)[:, None]
        out_at = out_ptr + slot.to(tl.int64)[:, None] * columns + column[None]
        tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=real[:, None] & inside[None])


def _tiles(block_size: int, itemsize: int) -> tuple[int, int, int, int]:
    """Columns and depth of a tile, blocks of rows that go over the columns together, and warps.

    Small blocks stream weights. Large ones keep the cores busy: what they read out of the L2 cache is then the limit,
    so that tiles are as wide as registers hold, and so many blocks share a column's weights that they are read once.
    """
    narrow = max(1, itemsize // 2)
    if block_size <= 32:
        return 64, 128 // narrow, 8, 4
    if block_size <= 64:
        return 128, 64 // narrow, 8, 4
    return 256 // narrow, 64 // narrow, 32, 8


def grouped_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    topk_weights: torch.Tensor | None,
    sorted_token_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_post_padded: torch.Tensor,
    top_k: int,
    block_size: int,
) -> torch.Tensor:
    """Blocks of choices that share an expert times that expert's weight, after vLLM's fused_moe_kernel.

    The grid covers the worst distribution; programs past the blocks in use end at once, so that nothing is read back
    and a CUDA graph stays right for any routing. In 16-bit types it reads 2 * depth * columns bytes for each expert
    that was hit, the rows of x once for each block of columns, out of the cache but for the first time, and writes
    2 * rows * top_k * columns.

    Args:
        x: (rows, depth), any floating-point dtype; choice i reads row i // top_k. Rows may be strided.
        weight: (experts, columns, depth), contiguous, of x's dtype.
        topk_weights: float32, one for each choice; None scales nothing.
        sorted_token_ids: of `MoeAlignBlockSize`.
        expert_ids: likewise.
        num_tokens_post_padded: likewise.
        top_k: choices of a row of x.
        block_size: of the alignment: at least 16, a power of two.

    Returns:
        (rows * top_k, columns), of x's dtype, accumulated in float32.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    (rows, depth), columns = x.shape, weight.shape[1]
    out = torch.empty(rows * top_k, columns, dtype=x.dtype, device=x.device)
    wide, deep, group, warps = _tiles(block_size, x.element_size())
    blocks = expert_ids.numel()
    if out.numel():
        # The copy engine brings the wide tiles of half-precision weights.
        tma = rows * top_k >= _MANY_ROWS * weight.shape[0] and wide == 256 and steps_at_16_bytes(weight, 1)
        _grouped_gemm_kernel[(blocks * cdiv(columns, wide),)](
            x, TensorDescriptor.from_tensor(weight.flatten(0, 1), [wide, deep]) if tma else weight,
            out, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded,
            rows * top_k, columns, depth, x.stride(0), weight.stride(0), blocks,
            top_k, topk_weights is not None, depth % deep == 0, tma, group, block_size, wide, deep,
            num_warps=warps, num_stages=4,
        )  # fmt: skip
    return out


class GroupedGemm(Operator):
    """out[i] = weight[expert of choice i] @ x[i // top_k], times the choice's weight where weights are given."""

    def forward_native(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        topk_weights: torch.Tensor | None,
        sorted_token_ids: torch.Tensor,
        expert_ids: torch.Tensor,
        num_tokens_post_padded: torch.Tensor,
        top_k: int,
        block_size: int,
    ) -> torch.Tensor:
        """Multiplies.

        Args:
            x: (rows, in).
            weight: (experts, out, in).
            topk_weights: (tokens, topk) float32, one weight for each choice; None scales nothing.
            sorted_token_ids: (places,) int32; the choices by expert, padded with rows * top_k.
            expert_ids: (places / block_size,) int32; each block's expert.
            num_tokens_post_padded: (1,) int32; places in use.
            top_k: choices of a row of x: topk for one row a token, 1 for one row a choice.
            block_size: places of a block.

        Returns:
            (rows * top_k, out); accumulated and scaled in float32.
        """
        if x.is_meta:
            return functional.linear(x.repeat_interleave(top_k, 0), weight[0])
        out = torch.empty(x.shape[0] * top_k, weight.shape[1], dtype=x.dtype, device=x.device)
        wide = torch.promote_types(x.dtype, torch.float32)
        used = int(num_tokens_post_padded)
        choices, experts = sorted_token_ids[:used].long(), expert_ids[: used // block_size]
        for expert in experts.unique().tolist():
            ours = choices[(experts == expert).repeat_interleave(block_size)]
            ours = ours[ours < out.shape[0]]
            product = functional.linear(x[ours // top_k].to(wide), weight[expert].to(wide))
            if topk_weights is not None:
                product = product * topk_weights.flatten()[ours, None]
            out[ours] = product.to(x.dtype)
        return out

    def forward_cuda(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        topk_weights: torch.Tensor | None,
        sorted_token_ids: torch.Tensor,
        expert_ids: torch.Tensor,
        num_tokens_post_padded: torch.Tensor,
        top_k: int,
        block_size: int,
    ) -> torch.Tensor:
        return grouped_gemm(
            x, weight, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, top_k, block_size
        )


__all__ = ["GroupedGemm"]
