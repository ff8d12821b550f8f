"""Writing new keys and values into their pages."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2

_MOST_LANES = 512


@triton.jit
def _store_kernel(key_ptr, value_ptr, k_ptr, v_ptr, slot_ptr, key_stride, value_stride, size, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    if slot >= 0:
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        mask = columns < size
        tl.store(k_ptr + slot * size + columns, tl.load(key_ptr + token * key_stride + columns, mask=mask), mask=mask)
        value = tl.load(value_ptr + token * value_stride + columns, mask=mask)
        tl.store(v_ptr + slot * size + columns, value, mask=mask)


def store_kvcache(
    key: torch.Tensor, value: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, slots: torch.Tensor
) -> None:
    """A program copies a token's key and value, or a part of long ones, after vLLM's reshape_and_cache_flash.

    Moves 8 * tokens * kv_heads * head_size bytes in 16-bit types.

    Args:
        key: (tokens, kv_heads, head_size), any dtype; the heads of a packed projection are read in place.
        value: likewise.
        key_cache: (blocks, block_size, kv_heads, head_size), contiguous, of the key's dtype.
        value_cache: likewise.
        slots: (tokens,) int64; -1 stores nothing.
    """
    key, value = _rows(key), _rows(value)
    tokens, size = key.shape
    if tokens:
        block = min(_MOST_LANES, next_power_of_2(size))
        _store_kernel[(tokens, cdiv(size, block))](
            key, value, key_cache, value_cache, slots, key.stride(0), value.stride(0), size, block, num_warps=2
        )


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, size) as (tokens, heads * size) with unit stride; a copy where heads do not lie side by side."""
    rows = x.flatten(1)
    return rows if rows.stride(1) == 1 else rows.contiguous()


class StoreKVCache(Operator):
    """Copies each token's key and value to the slot it was given; a slot of -1 is skipped.

    After vLLM's reshape_and_cache_flash.
    """

    mutates = ("key_cache", "value_cache")

    def forward_native(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Writes.

        Args:
            key: (tokens, kv_heads, head_size).
            value: likewise.
            key_cache: (blocks, block_size, kv_heads, head_size).
            value_cache: likewise.
            slot_mapping: (tokens,) int64; block * block_size + offset.
        """
        if key.is_meta:
            return
        kept = slot_mapping >= 0
        key_cache.flatten(0, 1)[slot_mapping[kept]] = key[kept]
        value_cache.flatten(0, 1)[slot_mapping[kept]] = value[kept]

    def forward_cuda(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        store_kvcache(key, value, key_cache, value_cache, slot_mapping)


__all__ = ["StoreKVCache"]
