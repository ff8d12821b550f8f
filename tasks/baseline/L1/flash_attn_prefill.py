"""Causal attention of new tokens over themselves and those before them, for a ragged batch of sequences."""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2, steps_at_16_bytes

_QUERY_CHUNK = 1024
_MANY_TOKENS = 1024  # the device is then busy for long enough to hide two descriptors' launch
_TILE = 64  # keys
_LOG2_E = tl.constexpr(1.4426950408889634)  # the device computes powers of two


@triton.jit
def _attend_keys(
    acc, total, peak, q, k_source, v_source, k_stride, v_stride, first_key, kv_column, positions, begin, end, keys,
    scale, HEAD: tl.constexpr, SOFT_CAP: tl.constexpr, WINDOW: tl.constexpr,
    WIDTH: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Walks a block of queries over the keys from `begin` to `end`, which all of its rows see unless MASKED."""
    lanes = tl.arange(0, WIDTH)
    for start in tl.range(begin, end, TILE):
        tokens = start + tl.arange(0, TILE)
        inside = (lanes < HEAD)[None]
        if MASKED:
            inside = (tokens < keys)[:, None] & inside
        rows = (first_key + tokens)[:, None].to(tl.int64)
        if TMA:
            k = k_source.load([first_key + start, kv_column])
        else:
            k_at = k_source + rows * k_stride + kv_column + lanes[None]
            k = tl.load(k_at, mask=inside, other=0.0) if MASKED or HEAD < WIDTH else tl.load(k_at)
        scores = tl.dot(q, tl.trans(k))
        if SOFT_CAP > 0:  # tanh(x) is 2 sigmoid(2 x) - 1
            scores = SOFT_CAP * (2.0 * tl.sigmoid(2.0 / SOFT_CAP * scale * scores) - 1.0)
        if MASKED:
            visible = tokens[None] <= positions[:, None]
            if WINDOW:
                visible &= tokens[None] > positions[:, None] - WINDOW
            scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        # Rows that have seen no key yet have no peak; a tile that all rows see gives them one.
        anchor = tl.where(higher == float("-inf"), 0.0, higher) if MASKED else higher
        # Scaled here and not before: a multiplication and a subtraction are one instruction.
        steepness = _LOG2_E if SOFT_CAP > 0 else scale * _LOG2_E
        weights = tl.exp2(scores * steepness - (anchor * steepness)[:, None])
        shrink = tl.exp2((peak - anchor) * steepness)
        total = total * shrink + tl.sum(weights, axis=1)
        # Loaded beside the keys they would take a barrier more, and two programs would no longer fit a multiprocessor.
        if TMA:
            v = v_source.load([first_key + start, kv_column])
            if MASKED:  # the next sequence's values lie there, and no weight of zero takes a NaN away
                v = tl.where(inside, v, 0.0)
        else:
            v_at = v_source + rows * v_stride + kv_column + lanes[None]
            v = tl.load(v_at, mask=inside, other=0.0) if MASKED or HEAD < WIDTH else tl.load(v_at)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    return acc, total, peak


@triton.jit
def _prefill_kernel(
    q_ptr, k_source, v_source, out_ptr, bounds_ptr, key_bounds_ptr, scale, q_stride, k_stride, v_stride, out_stride,
    GROUPS: tl.constexpr, HEAD: tl.constexpr, SOFT_CAP: tl.constexpr, WINDOW: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    # The longest rows first, of all heads: the last blocks of queries see the most keys.
    head, sequence = tl.program_id(0), tl.program_id(2)
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    first = tl.load(bounds_ptr + sequence).to(tl.int64)
    length = (tl.load(bounds_ptr + sequence + 1) - first).to(tl.int32)
    if block * ROWS < length:
        first_key = tl.load(key_bounds_ptr + sequence).to(tl.int32)
        keys = tl.load(key_bounds_ptr + sequence + 1).to(tl.int32) - first_key
        before = keys - length + block * ROWS  # tokens of the sequence before the block
        rows, lanes = block * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
        row_mask = (rows < length)[:, None] & (lanes < HEAD)[None]
        at = (first + rows)[:, None]
        q = tl.load(q_ptr + at * q_stride + head * HEAD + lanes[None], mask=row_mask, other=0.0)
        kv_column = head // GROUPS * HEAD
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, WIDTH], tl.float32)
        positions, end = before + tl.arange(0, ROWS), tl.minimum(before + ROWS, keys)
        # Tiles from `whole` to `diagonal` are seen by all rows; the others are masked.
        whole, diagonal = 0, (before + 1) // TILE * TILE
        if WINDOW:
            begin = tl.maximum(before - WINDOW + 1, 0) // TILE * TILE
            whole = tl.cdiv(tl.maximum(before + ROWS - WINDOW, 0), TILE) * TILE
            whole = tl.minimum(tl.maximum(whole, begin), tl.cdiv(end, TILE) * TILE)
            diagonal = tl.maximum(diagonal, whole)
            acc, total, peak = _attend_keys(
                acc, total, peak, q, k_source, v_source, k_stride, v_stride, first_key, kv_column, positions,
                begin, whole, keys, scale, HEAD, SOFT_CAP, WINDOW, WIDTH, TILE, True, TMA,
            )  # fmt: skip
        acc, total, peak = _attend_keys(
            acc, total, peak, q, k_source, v_source, k_stride, v_stride, first_key, kv_column, positions,
            whole, diagonal, keys, scale, HEAD, SOFT_CAP, WINDOW, WIDTH, TILE, False, TMA,
        )  # fmt: skip
        acc, total, peak = _attend_keys(
            acc, total, peak, q, k_source, v_source, k_stride, v_stride, first_key, kv_column, positions,
            diagonal, end, keys, scale, HEAD, SOFT_CAP, WINDOW, WIDTH, TILE, True, TMA,
        )  # fmt: skip
        out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + at * out_stride + head * HEAD + lanes[None], out, mask=row_mask)


def _fits_tma(x: torch.Tensor) -> bool:
    """Whether the copy engine can bring tiles of a head: a power of two wide, every row at 16 bytes."""
    width = x.shape[2]
    return width >= 16 and width == next_power_of_2(width) and steps_at_16_bytes(x, 0)


def ragged_prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start_loc: torch.Tensor,
    max_query_len: int,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    key_start_loc: torch.Tensor | None = None,
) -> torch.Tensor:
    """A program keeps a block of queries and walks over the keys that they see; scores never leave the chip.

    After FlashAttention-2 (Dao, 2023). Moves 4 * (heads * tokens + kv_heads * keys) * head_size bytes; where many
    tokens hide what its descriptors take the host, keys and values come by the copy engine.

    Args:
        query: (tokens, heads, head_size), float16 or bfloat16; the heads of a packed projection are read in place.
        key: (keys, kv_heads, head_size), likewise.
        value: like `key`.
        query_start_loc: (batch + 1,) int32; sequence i holds tokens [i] to [i + 1].
        max_query_len: the longest sequence.
        scale: of the scores; positive.
        soft_cap: bounds the scores to +-soft_cap by a tanh.
        window: how many tokens, its own included, a token attends to; None for all before it.
        key_start_loc: (batch + 1,) int32; sequence i holds keys [i] to [i + 1]; None where all are of new tokens.

    Returns:
        (tokens, heads, head_size), contiguous, of the query's dtype.
    """
    tokens, heads, head_size = query.shape
    query, key, value = (t if t.stride()[1:] == (head_size, 1) else t.contiguous() for t in (query, key, value))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    batch, width = query_start_loc.numel() - 1, max(16, next_power_of_2(head_size))
    rows, warps = (64, 4) if width <= 128 else (128, 8)
    if out.numel():
        tma = tokens >= _MANY_TOKENS and _fits_tma(key) and _fits_tma(value)
        sources = [TensorDescriptor.from_tensor(t.flatten(1), [_TILE, width]) if tma else t for t in (key, value)]
        _prefill_kernel[(heads, cdiv(max_query_len, rows), batch)](
            query, *sources, out, query_start_loc, query_start_loc if key_start_loc is None else key_start_loc, scale,
            query.stride(0), key.stride(0), value.stride(0), out.stride(0),
            heads // key.shape[1], head_size, soft_cap or 0.0, window or 0, width, rows, _TILE, tma,
            num_warps=warps, num_stages=3 if tma and width <= 128 else 2,
        )  # fmt: skip
    return out


class FlashAttnPrefill(Operator):
    """softmax(q k^T * scale) v under a causal mask, sequence by sequence, query heads sharing KV heads in groups.

    The baseline takes torch's fused attention (cuDNN's on recent GPUs) for sequences of one length, and a kernel of its
    own for all else: ragged batches, keys from before, windows, soft caps. Both are for 16-bit types; float32 takes the
    reference.

    Args:
        num_heads: query heads.
        head_size: size of a head.
        scale: of the scores.
        num_kv_heads: key and value heads; None means as many as query heads.
        logits_soft_cap: bounds the scores to +-logits_soft_cap by a tanh; None leaves them.
        per_layer_sliding_window: how many tokens, its own included, a token attends to; None for all before it.
    """

    spreads_nonfinite = True

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
        key: torch.Tensor,
        value: torch.Tensor,
        query_start_loc: torch.Tensor,
        max_query_len: int,
        key_start_loc: torch.Tensor | None = None,
        max_key_len: int | None = None,
    ) -> torch.Tensor:
        """Attends.

        Args:
            query: (tokens, heads, head_size).
            key: (keys, kv_heads, head_size).
            value: likewise.
            query_start_loc: (batch + 1,) int32; sequence i holds tokens [i] to [i + 1].
            max_query_len: most tokens of any sequence.
            key_start_loc: (batch + 1,) int32; sequence i holds keys [i] to [i + 1], the last of them its tokens' own;
                None where there are no others.
            max_key_len: most keys of any sequence; None likewise.

        Returns:
            (tokens, heads, head_size), contiguous.
        """
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if query.is_meta:
            return out
        bounds = query_start_loc.tolist()
        key_bounds = bounds if key_start_loc is None else key_start_loc.tolist()
        for (begin, end), (key_begin, key_end) in zip(pairwise(bounds), pairwise(key_bounds), strict=True):
            for first in range(begin, end, _QUERY_CHUNK):
                last = min(first + _QUERY_CHUNK, end)
                own, seen_end = key_end - end + first, key_end - end + last
                seen = max(key_begin, own + 1 - self.sliding_window) if self.sliding_window else key_begin
                out[first:last] = self._attend(query[first:last], key[seen:seen_end], value[seen:seen_end])
        return out

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The last tokens of a sequence over all that any of them sees: (q, heads, size) over (k, kv_heads, size)."""
        wide = torch.promote_types(query.dtype, torch.float32)
        q, k, v = (t.to(wide).transpose(0, 1) for t in (query, key, value))
        groups = self.num_heads // self.num_kv_heads
        scores = q.unflatten(0, (self.num_kv_heads, groups)) @ k.unsqueeze(1).mT * self.scale
        if self.logits_soft_cap:
            scores = self.logits_soft_cap * torch.tanh(scores / self.logits_soft_cap)
        diagonal = k.shape[1] - q.shape[1]
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(diagonal)
        if self.sliding_window:
            visible = visible.triu(diagonal + 1 - self.sliding_window)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return (weights @ v.unsqueeze(1)).flatten(0, 1).transpose(0, 1).to(query.dtype)

    def forward_cuda(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_start_loc: torch.Tensor,
        max_query_len: int,
        key_start_loc: torch.Tensor | None = None,
        max_key_len: int | None = None,
    ) -> torch.Tensor:
        if query.dtype not in (torch.float16, torch.bfloat16) or not query.shape[0]:
            return self.forward_native(query, key, value, query_start_loc, max_query_len, key_start_loc, max_key_len)
        batch, soft_cap, alone = query_start_loc.numel() - 1, self.logits_soft_cap, key_start_loc is None
        key_bounds, longest = query_start_loc if key_start_loc is None else key_start_loc, max_key_len or max_query_len
        window = self.sliding_window if self.sliding_window and self.sliding_window < longest else None
        if alone and window is None and soft_cap is None and query.shape[0] == batch * max_query_len:
            # Then all are as long as the longest, and no length need be read.
            q, k, v = (t.unflatten(0, (batch, max_query_len)).transpose(1, 2) for t in (query, key, value))
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
            return out.transpose(1, 2).contiguous().flatten(0, 1)
        return ragged_prefill(
            query, key, value, query_start_loc, max_query_len, self.scale, soft_cap, window, key_bounds
        )


__all__ = ["FlashAttnPrefill"]
