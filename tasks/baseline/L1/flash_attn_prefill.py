"""Causal attention of new tokens over themselves, for a ragged batch of sequences."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from ..operator import Operator

_FLASH_ATTN = importlib.util.find_spec("flash_attn") is not None
_QUERY_CHUNK = 1024


class FlashAttnPrefill(Operator):
    """softmax(q k^T * scale) v under a causal mask, sequence by sequence, query heads sharing KV heads in groups.

    The baseline takes torch's fused attention (cuDNN's on recent GPUs) for sequences of one length, and packed
    FlashAttention-2 for others (Dao, 2023): flash-attn's where it is installed, else torch's. Both are for 16-bit
    types; float32 takes the reference.

    Args:
        num_heads: query heads.
        head_size: size of a head.
        scale: of the scores.
        num_kv_heads: key and value heads; None means as many as query heads.
    """

    def __init__(self, num_heads: int, head_size: int, scale: float, num_kv_heads: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.scale = num_heads, head_size, scale
        self.num_kv_heads = num_kv_heads or num_heads

    def forward_native(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_start_loc: torch.Tensor,
        max_query_len: int,
    ) -> torch.Tensor:
        """Attends.

        Args:
            query: (tokens, heads, head_size).
            key: (tokens, kv_heads, head_size).
            value: likewise.
            query_start_loc: (batch + 1,) int32; sequence i holds tokens [i] to [i + 1].
            max_query_len: the longest sequence.

        Returns:
            (tokens, heads, head_size), contiguous.
        """
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if query.is_meta:
            return out
        bounds = query_start_loc.tolist()
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            for first in range(begin, end, _QUERY_CHUNK):
                last = min(first + _QUERY_CHUNK, end)
                out[first:last] = self._attend(query[first:last], key[begin:last], value[begin:last])
        return out

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The last tokens of a sequence over all of it: (q, heads, size) over (k, kv_heads, size)."""
        wide = torch.promote_types(query.dtype, torch.float32)
        q, k, v = (t.to(wide).transpose(0, 1) for t in (query, key, value))
        groups = self.num_heads // self.num_kv_heads
        scores = q.unflatten(0, (self.num_kv_heads, groups)) @ k.unsqueeze(1).mT * self.scale
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[1] - q.shape[1])
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return (weights @ v.unsqueeze(1)).flatten(0, 1).transpose(0, 1).to(query.dtype)

    def forward_cuda(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_start_loc: torch.Tensor,
        max_query_len: int,
    ) -> torch.Tensor:
        if query.dtype not in (torch.float16, torch.bfloat16) or not query.shape[0]:
            return self.forward_native(query, key, value, query_start_loc, max_query_len)
        batch = query_start_loc.numel() - 1
        if query.shape[0] == batch * max_query_len:  # then all are as long as the longest, and no length need be read
            q, k, v = (t.unflatten(0, (batch, max_query_len)).transpose(1, 2) for t in (query, key, value))
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
            return out.transpose(1, 2).contiguous().flatten(0, 1)
        if _FLASH_ATTN:
            from flash_attn import flash_attn_varlen_func

            return flash_attn_varlen_func(
                query, key, value, query_start_loc, query_start_loc, max_query_len, max_query_len,
                softmax_scale=self.scale, causal=True,
            )  # fmt: skip
        # Repeated by hand: torch 2.11's varlen_attn has no enable_gqa.
        key, value = (t.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for t in (key, value))
        packed = varlen_attn(
            query, key, value, query_start_loc, query_start_loc, max_query_len, max_query_len,
            scale=self.scale, window_size=(-1, 0),
        )  # fmt: skip
        assert isinstance(packed, torch.Tensor)
        return packed


__all__ = ["FlashAttnPrefill"]
