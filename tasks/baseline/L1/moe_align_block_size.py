"""The order in which a grouped matrix product takes tokens: expert by expert, each padded to whole blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_TILE = 1024
_ONE_LAUNCH = 2048  # choices that every expert's program looks through sooner than a second launch would begin
_PART, _MOST_PARTS = 64, 128  # choices that are ranked at a time; programs that share them, a wave of the largest GPUs


@triton.jit
def _counted(ids_ptr, begin, end, BINS: tl.constexpr, TILE: tl.constexpr):
    """How often each expert is chosen, from one choice to before another."""
    counts = tl.zeros([BINS], tl.int32)
    for start in range(begin, end, TILE):
        at = start + tl.arange(0, TILE)
        counts += tl.histogram(tl.load(ids_ptr + at, mask=at < end, other=0), BINS, mask=at < end)
    return counts


@triton.jit
def _fill(
    sorted_ptr, experts_ptr, program, begin, used, end, total, slots, room, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Pads one expert's places, begin to end, of which some are used, and names its blocks.

    What is left of the bound is shared out: padding that belongs to no expert.
    """
    lanes, programs = tl.arange(0, TILE), tl.num_programs(0)
    padding, expert = tl.full([TILE], 0, tl.int32) + slots, tl.full([TILE], 0, tl.int32) + program
    for start in range(used, end, TILE):
        tl.store(sorted_ptr + start + lanes, padding, mask=start + lanes < end)
    for start in range(begin // BLOCK_SIZE, end // BLOCK_SIZE, TILE):
        tl.store(experts_ptr + start + lanes, expert, mask=start + lanes < end // BLOCK_SIZE)
    for start in range(total + program * TILE, room, programs * TILE):
        tl.store(sorted_ptr + start + lanes, padding, mask=start + lanes < room)
    for start in range(total // BLOCK_SIZE + program * TILE, room // BLOCK_SIZE, programs * TILE):
        tl.store(experts_ptr + start + lanes, tl.zeros([TILE], tl.int32), mask=start + lanes < room // BLOCK_SIZE)


@triton.jit
def _expert_kernel(
    ids_ptr, sorted_ptr, experts_ptr, total_ptr, slots, room,
    BLOCK_SIZE: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Each expert's program counts all choices and places its own."""
    expert = tl.program_id(0)
    bins, lanes = tl.arange(0, BINS), tl.arange(0, TILE)
    counts = _counted(ids_ptr, 0, slots, BINS, TILE)
    padded = tl.cdiv(counts, BLOCK_SIZE) * BLOCK_SIZE
    begin = tl.sum(tl.where(bins < expert, padded, 0), axis=0)
    end = begin + tl.sum(tl.where(bins == expert, padded, 0), axis=0)
    total = tl.sum(padded, axis=0)
    if expert == 0:
        tl.store(total_ptr, total)
    place = begin
    for start in range(0, slots, TILE):
        at = start + lanes
        ours = tl.load(ids_ptr + at, mask=at < slots, other=-1) == expert
        earlier = tl.cumsum(ours.to(tl.int32), axis=0) - 1
        tl.store(sorted_ptr + place + earlier, at, mask=ours)
        place += tl.sum(ours.to(tl.int32), axis=0)
    _fill(sorted_ptr, experts_ptr, expert, begin, place, end, total, slots, room, BLOCK_SIZE, TILE)


@triton.jit
def _count_kernel(ids_ptr, counts_ptr, slots, share, BINS: tl.constexpr, TILE: tl.constexpr):
    """Counts the experts in each program's share of the choices."""
    part = tl.program_id(0)
    counts = _counted(ids_ptr, part * share, min(part * share + share, slots), BINS, TILE)
    tl.store(counts_ptr + part * BINS + tl.arange(0, BINS), counts)


@triton.jit
def _place_kernel(
    ids_ptr, counts_ptr, sorted_ptr, experts_ptr, total_ptr, slots, room, parts, share,
    PARTS: tl.constexpr, BLOCK_SIZE: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Places each program's share of the choices behind those of the programs before it."""
    program = tl.program_id(0)
    part, bins, lanes = tl.arange(0, PARTS), tl.arange(0, BINS), tl.arange(0, TILE)
    table = tl.load(counts_ptr + part[:, None] * BINS + bins[None], mask=(part < parts)[:, None], other=0)
    counts = tl.sum(table, axis=0)
    padded = tl.cdiv(counts, BLOCK_SIZE) * BLOCK_SIZE
    begins, total = tl.cumsum(padded, axis=0) - padded, tl.sum(padded, axis=0)
    if program == 0:
        tl.store(total_ptr, total)
    places = begins + tl.sum(tl.where((part < program)[:, None], table, 0), axis=0)
    for start in range(program * share, min(program * share + share, slots), TILE):
        at = start + lanes
        ids = tl.load(ids_ptr + at, mask=at < slots, other=0)
        earlier = tl.sum(((ids[:, None] == ids[None]) & (lanes[:, None] > lanes[None])).to(tl.int32), axis=1)
        tl.store(sorted_ptr + tl.gather(places, ids, axis=0) + earlier, at, mask=at < slots)
        places += tl.histogram(ids, BINS, mask=at < slots)
    ours = bins == program
    begin, used = tl.sum(tl.where(ours, begins, 0), axis=0), tl.sum(tl.where(ours, begins + counts, 0), axis=0)
    end = begin + tl.sum(tl.where(ours, padded, 0), axis=0)
    _fill(sorted_ptr, experts_ptr, program, begin, used, end, total, slots, room, BLOCK_SIZE, TILE)


def padded_bound(slots: int, block_size: int, num_experts: int) -> int:
    """Most places that `slots` choices can take: every expert that can be hit wastes all but one of a block."""
    return cdiv(slots + min(slots, num_experts) * (block_size - 1), block_size) * block_size


def moe_align_block_size(
    topk_ids: torch.Tensor, block_size: int, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A counting sort without atomics, so that the order never changes; it gives what vLLM's kernel of that name gives.

    Few choices take one launch, in which each expert's program counts them all and places its own; many take two, in
    which programs count and then place shares of them: distribution counting (Knuth, volume 3, 5.2). Reads
    4 * tokens * topk bytes and writes 4 bytes a place; all else stays in the cache.

    Args:
        topk_ids: (tokens, topk) int32.
        block_size: places of a block.
        num_experts: a bound on the ids.

    Returns:
        As of `MoeAlignBlockSize`.
    """
    ids, slots = topk_ids.contiguous(), topk_ids.numel()
    room, bins = padded_bound(slots, block_size, num_experts), max(16, next_power_of_2(num_experts))
    order = torch.empty(room, dtype=torch.int32, device=ids.device)
    experts = torch.empty(room // block_size, dtype=torch.int32, device=ids.device)
    total = torch.empty(1, dtype=torch.int32, device=ids.device)
    if slots <= _ONE_LAUNCH:
        _expert_kernel[(num_experts,)](
            ids, order, experts, total, slots, room, block_size, bins, _TILE, num_warps=8
        )  # fmt: skip
        return order, experts, total
    share = cdiv(slots, _MOST_PARTS * _PART) * _PART
    parts = cdiv(slots, share)
    counts = torch.empty(parts, bins, dtype=torch.int32, device=ids.device)
    _count_kernel[(parts,)](ids, counts, slots, share, bins, _PART, num_warps=2)
    _place_kernel[(max(parts, num_experts),)](
        ids, counts, order, experts, total, slots, room, parts, share,
        next_power_of_2(parts), block_size, bins, _PART, num_warps=4,
    )  # fmt: skip
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
