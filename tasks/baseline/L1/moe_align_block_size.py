"""The order in which a grouped matrix product takes tokens: expert by expert, each padded to whole blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_TILE = 1024


@triton.jit
def _moe_align_kernel(
    topk_ids_ptr, sorted_ptr, experts_ptr, total_ptr, slots, room, num_experts,
    BLOCK_SIZE: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(0)
    bins, lanes = tl.arange(0, BINS), tl.arange(0, TILE)
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, slots, TILE):
        at = start + lanes
        counts += tl.histogram(tl.load(topk_ids_ptr + at, mask=at < slots, other=num_experts), BINS)
    padded = tl.where(bins < num_experts, tl.cdiv(counts, BLOCK_SIZE) * BLOCK_SIZE, 0)
    begin = tl.sum(tl.where(bins < expert, padded, 0), axis=0)
    end = begin + tl.sum(tl.where(bins == expert, padded, 0), axis=0)
    total = tl.sum(padded, axis=0)
    if expert == 0:
        tl.store(total_ptr, total)
    place = begin
    for start in range(0, slots, TILE):
        at = start + lanes
        ours = tl.load(topk_ids_ptr + at, mask=at < slots, other=num_experts) == expert
        earlier = tl.cumsum(ours.to(tl.int32), axis=0) - 1
        tl.store(sorted_ptr + place + earlier, at, mask=ours)
        place += tl.sum(ours.to(tl.int32), axis=0)
    for start in range(place, end, TILE):
        at = start + lanes
        tl.store(sorted_ptr + at, tl.full([TILE], 0, tl.int32) + slots, mask=at < end)
    for start in range(begin // BLOCK_SIZE, end // BLOCK_SIZE, TILE):
        at = start + lanes
        tl.store(experts_ptr + at, tl.full([TILE], 0, tl.int32) + expert, mask=at < end // BLOCK_SIZE)
    # What is left of the bound is shared out: padding that belongs to no expert.
    for start in range(total + expert * TILE, room, num_experts * TILE):
        at = start + lanes
        tl.store(sorted_ptr + at, tl.full([TILE], 0, tl.int32) + slots, mask=at < room)
    for start in range(total // BLOCK_SIZE + expert * TILE, room // BLOCK_SIZE, num_experts * TILE):
        at = start + lanes
        tl.store(experts_ptr + at, tl.zeros([TILE], tl.int32), mask=at < room // BLOCK_SIZE)


def padded_bound(slots: int, block_size: int, num_experts: int) -> int:
    """Most places that `slots` choices can take: every expert that can be hit wastes all but one of a block."""
    return cdiv(slots + min(slots, num_experts) * (block_size - 1), block_size) * block_size


def moe_align_block_size(
    topk_ids: torch.Tensor, block_size: int, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A counting sort in one launch: each expert's program counts all choices for itself and then places its own.

    It gives what vLLM's kernel of that name gives, by distribution counting (Knuth, volume 3, 5.2); without atomics, so
    that the order never changes. Reads 8 * experts * tokens * topk bytes, out of the cache but for the first time, and
    writes 4 bytes a place.

    Args:
        topk_ids: (tokens, topk) int32.
        block_size: places of a block.
        num_experts: a bound on the ids.

    Returns:
        As of `MoeAlignBlockSize`.
    """
    ids, slots = topk_ids.contiguous(), topk_ids.numel()
    room = padded_bound(slots, block_size, num_experts)
    order = torch.empty(room, dtype=torch.int32, device=ids.device)
    experts = torch.empty(room // block_size, dtype=torch.int32, device=ids.device)
    total = torch.empty(1, dtype=torch.int32, device=ids.device)
    bins = max(16, next_power_of_2(num_experts + 1))
    _moe_align_kernel[(num_experts,)](
        ids, order, experts, total, slots, room, num_experts, block_size, bins, _TILE, num_warps=4
    )
    return order, experts, total


class MoeAlignBlockSize(Operator):
    """Sorts the choices of all tokens by expert, and pads each expert's to a multiple of the block size."""

    def forward_native(
        self, topk_ids: torch.Tensor, block_size: int, num_experts: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sorts.

        Args:
            topk_ids: (tokens, topk) int32, each below `num_experts`.
            block_size: places of a block.
            num_experts: number of experts.

        Returns:
            `sorted_token_ids` (places,) int32: token * topk + k of each choice, in any order within an expert; padding
            is tokens * topk. There are as many places as the worst distribution needs.
            `expert_ids` (places / block_size,) int32: the expert of each block; undefined past the last one in use.
            `num_tokens_post_padded` (1,) int32: places in use.
        """
        slots, device = topk_ids.numel(), topk_ids.device
        room = padded_bound(slots, block_size, num_experts)
        order = torch.full((room,), slots, dtype=torch.int32, device=device)
        experts = torch.zeros(room // block_size, dtype=torch.int32, device=device)
        if topk_ids.is_meta:
            return order, experts, torch.empty(1, dtype=torch.int32, device=device)
        ids, by_expert = topk_ids.flatten().long().sort(stable=True)
        counts = ids.bincount(minlength=num_experts)
        blocks = -(-counts // block_size)
        first_block, first_choice = blocks.cumsum(0) - blocks, counts.cumsum(0) - counts
        place = first_block[ids] * block_size + torch.arange(slots, device=device) - first_choice[ids]
        order[place] = by_expert.to(torch.int32)
        used = torch.arange(num_experts, device=device, dtype=torch.int32).repeat_interleave(blocks)
        experts[: used.numel()] = used
        return order, experts, (blocks.sum() * block_size).to(torch.int32).view(1)

    def forward_cuda(
        self, topk_ids: torch.Tensor, block_size: int, num_experts: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return moe_align_block_size(topk_ids, block_size, num_experts)

    @staticmethod
    def canonical(
        sorted_token_ids: torch.Tensor, expert_ids: torch.Tensor, num_tokens_post_padded: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The same for all results that place each choice with its expert: order and undefined parts taken away."""
        block_size = sorted_token_ids.numel() // max(expert_ids.numel(), 1)
        blocks = torch.arange(expert_ids.numel(), device=expert_ids.device)
        used = blocks * block_size < num_tokens_post_padded
        experts = torch.where(used, expert_ids, torch.iinfo(torch.int32).max).long()
        choices = torch.where(used.repeat_interleave(block_size), sorted_token_ids, 0).long()
        return (experts.repeat_interleave(block_size) * (1 << 33) + choices).sort().values, num_tokens_post_padded


__all__ = ["MoeAlignBlockSize"]
