"""Attention of one new token a sequence over its pages."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_MAX_SPLITS = 64
_WHOLE_LEN = 2048  # of sequences that many others wait for, if they are not split


@triton.jit
def _capped(scores, SOFT_CAP: tl.constexpr):
    """SOFT_CAP * tanh(scores / SOFT_CAP); by its series where the exponential would cancel."""
    x = scores / SOFT_CAP
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0 - square * 62.0 / 2835.0))))
    return SOFT_CAP * tl.where(tl.abs(x) < 0.2, series, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


@triton.jit
def _tokens_seen(length, WINDOW: tl.constexpr):
    return tl.minimum(length, WINDOW) if WINDOW else length


@triton.jit
def _tokens_a_split(seen, splits, TILE: tl.constexpr):
    return tl.cdiv(tl.cdiv(seen, splits), TILE) * TILE


@triton.jit
def _split_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, lens_ptr, out_ptr, part_ptr, stat_ptr, scale, q_stride, table_stride, splits,
    BLOCK_SIZE: tl.constexpr, KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, HEAD: tl.constexpr,
    SOFT_CAP: tl.constexpr, WINDOW: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    sequence, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lens_ptr + sequence)
    visible = _tokens_seen(length, WINDOW)
    share = _tokens_a_split(visible, splits, TILE)
    begin = length - visible + split * share
    if begin < length + (1 if WHOLE else 0):
        rows, lanes = tl.arange(0, ROWS), tl.arange(0, WIDTH)
        heads = kv_head * GROUPS + rows
        lane_mask, row_mask = lanes < HEAD, rows < GROUPS
        q_at = q_ptr + sequence * q_stride + heads[:, None] * HEAD + lanes[None]
        q = tl.load(q_at, mask=row_mask[:, None] & lane_mask[None], other=0.0)
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, WIDTH], tl.float32)
        for start in range(begin, min(begin + share, length), TILE):
            tokens = start + tl.arange(0, TILE)
            seen = tokens < length
            page = tl.load(table_ptr + sequence * table_stride + tokens // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
            at = ((page * BLOCK_SIZE + tokens % BLOCK_SIZE) * KV_HEADS + kv_head) * HEAD
            both = seen[:, None] & lane_mask[None]
            k = tl.load(k_ptr + at[:, None] + lanes[None], mask=both, other=0.0)
            v = tl.load(v_ptr + at[:, None] + lanes[None], mask=both, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            if SOFT_CAP > 0:
                scores = _capped(scores, SOFT_CAP)
            scores = tl.where(seen[None], scores, float("-inf"))
            higher = tl.maximum(peak, tl.max(scores, axis=1))
            shrink, weights = tl.exp(peak - higher), tl.exp(scores - higher[:, None])
            total = total * shrink + tl.sum(weights, axis=1)
            acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            peak = higher
        slot = (sequence * KV_HEADS * GROUPS + heads) * splits + split
        at_slot, mask = slot[:, None] * HEAD + lanes[None], row_mask[:, None] & lane_mask[None]
        if WHOLE:  # an empty sequence has no weights, and zeros for output
            out = acc / tl.where(total > 0, total, 1.0)[:, None]
            tl.store(out_ptr + at_slot, out.to(out_ptr.dtype.element_ty), mask=mask)
        else:
            tl.store(part_ptr + at_slot, acc / total[:, None], mask=mask)
            tl.store(stat_ptr + slot, peak + tl.log(total), mask=row_mask)


@triton.jit
def _merge_kernel(
    part_ptr, stat_ptr, lens_ptr, out_ptr, heads, splits,
    WINDOW: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    visible = _tokens_seen(tl.load(lens_ptr + sequence), WINDOW)
    parts, lanes = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    written = parts * _tokens_a_split(visible, splits, TILE) < visible
    slot = (sequence * heads + head) * splits + parts
    stat = tl.load(stat_ptr + slot, mask=written, other=float("-inf"))
    # An empty sequence has no finite peak, and zeros for output.
    weights = tl.where(written, tl.exp(stat - tl.max(stat, axis=0)), 0.0)
    part = tl.load(
        part_ptr + slot[:, None] * HEAD + lanes[None], mask=written[:, None] & (lanes < HEAD)[None], other=0.0
    )
    out = tl.sum(part * weights[:, None], axis=0) / tl.maximum(tl.sum(weights, axis=0), 1.0)
    tl.store(out_ptr + (sequence * heads + head) * HEAD + lanes, out.to(out_ptr.dtype.element_ty), mask=lanes < HEAD)


def _shares(row_bytes: int, heads: int, bound: int) -> tuple[int, int, int]:
    """Keys of a tile, stages, and splits of a sequence; 1 where the heads of all are enough to be read whole.

    As measured on an H200: 256 programs read narrow heads the fastest and 512, in smaller tiles, wide ones; more only
    add parts to merge.

    Args:
        row_bytes: of a key.
        heads: key heads of all sequences.
        bound: on the tokens that are read of each.
    """
    if row_bytes <= 256:
        tile, stages, programs, enough, fewest = 64, 5, 256, 128, 64
    else:
        tile, stages, programs, enough, fewest = 16, 5 if row_bytes <= 512 else 3, 512, 512, 32
    if heads >= enough and bound <= _WHOLE_LEN:
        return tile, stages, 1
    return tile, stages, max(4, min(_MAX_SPLITS, programs // heads, cdiv(bound, fewest)))


def paged_decode(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    max_seq_len: int,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Reads every visible key and value once, split over programs, then merges the splits by their log-sum-exp.

    Each sequence is split by its own length, so that the grid depends on the bound alone and a CUDA graph of it stays
    right; many short sequences are not split. After FlashDecoding (Dao et al., 2023) and PagedAttention (Kwon et al.,
    2023). Moves 4 * sum(min(seq_lens, window)) * kv_heads * head_size bytes in 16-bit types.

    Args:
        query: (batch, heads, head_size), any floating-point dtype; the heads of a packed projection are read in place.
        key_cache: (blocks, block_size, kv_heads, head_size), contiguous, of the query's dtype.
        value_cache: likewise.
        block_table: (batch, max_blocks) int32, rows strided.
        seq_lens: (batch,) int32; 0 gives zeros.
        max_seq_len: a bound on `seq_lens`.
        scale: of the scores.
        soft_cap: bounds the scores to +-soft_cap by a tanh.
        window: how many tokens, the new one included, are visible; None for all.

    Returns:
        (batch, heads, head_size), contiguous, of the query's dtype.
    """
    batch, heads, head_size = query.shape
    _, block_size, kv_heads, _ = key_cache.shape
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    if batch == 0:
        return out
    query = query if query.stride()[1:] == (head_size, 1) else query.contiguous()
    groups, width = heads // kv_heads, next_power_of_2(head_size)
    bound = min(max_seq_len, window or max_seq_len)
    tile, stages, splits = _shares(width * query.element_size(), batch * kv_heads, bound)
    whole = splits == 1
    parts = torch.empty(batch, heads, splits, head_size, dtype=torch.float32, device=query.device)
    stats = torch.empty(batch, heads, splits, dtype=torch.float32, device=query.device)
    _split_kernel[(batch, kv_heads, splits)](
        query, key_cache, value_cache, block_table, seq_lens, out, parts, stats, scale,
        query.stride(0), block_table.stride(0), splits,
        block_size, kv_heads, groups, head_size, soft_cap or 0.0, window or 0,
        max(16, next_power_of_2(groups)), width, tile, whole,
        num_warps=2, num_stages=stages,
    )  # fmt: skip
    if whole:
        return out
    _merge_kernel[(batch, heads)](
        parts, stats, seq_lens, out, heads, splits,
        window or 0, head_size, width, next_power_of_2(splits), tile, num_warps=4,
    )  # fmt: skip
    return out


class FlashAttnDecode(Operator):
    """softmax(q K^T * scale) V over the pages of each sequence, query heads sharing KV heads in groups.

    Args:
        num_heads: query heads.
        head_size: size of a head.
        scale: of the scores.
        num_kv_heads: key and value heads; None means as many as query heads.
        logits_soft_cap: bounds the scores to +-logits_soft_cap by a tanh; None leaves them.
        per_layer_sliding_window: how many tokens, its own included, a token attends to; None for all before it.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        logits_soft_cap: float | None = None,
        per_layer_sliding_window: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.scale = num_heads, head_size, scale
        self.num_kv_heads = num_kv_heads or num_heads
        self.logits_soft_cap, self.sliding_window = logits_soft_cap, per_layer_sliding_window

    def forward_native(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        block_table: torch.Tensor,
        seq_lens: torch.Tensor,
        max_seq_len: int,
    ) -> torch.Tensor:
        """Attends.

        Args:
            query: (batch, heads, head_size).
            key_cache: (blocks, block_size, kv_heads, head_size).
            value_cache: likewise.
            block_table: (batch, max_blocks) int32; the pages of each sequence, in order.
            seq_lens: (batch,) int32; cached tokens of each sequence, the new one included; 0 gives zeros.
            max_seq_len: a bound on `seq_lens`.

        Returns:
            (batch, heads, head_size), contiguous.
        """
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if query.is_meta:
            return out
        wide = torch.promote_types(query.dtype, torch.float32)
        groups, block_size = self.num_heads // self.num_kv_heads, key_cache.shape[1]
        for row, length in enumerate(seq_lens.tolist()):
            first = max(0, length - self.sliding_window) if self.sliding_window else 0
            tokens = torch.arange(first, length, device=query.device)
            slots = block_table[row, tokens // block_size].long() * block_size + tokens % block_size
            k, v = (cache.flatten(0, 1)[slots].to(wide).transpose(0, 1) for cache in (key_cache, value_cache))
            q = query[row].to(wide).unflatten(0, (self.num_kv_heads, groups))
            scores = q @ k.mT * self.scale
            if self.logits_soft_cap:
                scores = self.logits_soft_cap * torch.tanh(scores / self.logits_soft_cap)
            out[row] = (scores.softmax(-1) @ v).flatten(0, 1).to(query.dtype)
        return out

    def forward_cuda(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        block_table: torch.Tensor,
        seq_lens: torch.Tensor,
        max_seq_len: int,
    ) -> torch.Tensor:
        return paged_decode(
            query, key_cache, value_cache, block_table, seq_lens, max_seq_len,
            self.scale, self.logits_soft_cap, self.sliding_window,
        )  # fmt: skip


__all__ = ["FlashAttnDecode"]
