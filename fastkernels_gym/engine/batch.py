"""A batch: tokens of several sequences, flat, and where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata, CachedKeys
from fastkernels_gym.tasks.baseline.parallel_state import get_tp_size


@dataclass(frozen=True, slots=True)
class Batch:
    """One pass's input.

    Args:
        input_ids: (tokens,) int64.
        positions: (tokens,) int64.
        metadata: how tokens fall into sequences and pages.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    metadata: AttentionMetadata

    @classmethod
    def build(
        cls,
        query_lens: Sequence[int],
        context_lens: Sequence[int],
        block_table: torch.Tensor,
        block_size: int,
        device: torch.device,
        input_ids: torch.Tensor,
    ) -> Batch:
        """The batch of given lengths.

        Args:
            query_lens: new tokens of each sequence.
            context_lens: tokens of each sequence in the cache before the pass.
            block_table: (batch, max_blocks) int32, on the host.
            block_size: tokens of a page.
            device: where the batch goes.
            input_ids: (sum of query_lens,) int64.
        """
        queries, contexts = torch.tensor(query_lens), torch.tensor(context_lens)
        ends = queries.cumsum(0)
        rows = torch.repeat_interleave(torch.arange(len(queries)), queries)
        positions = torch.arange(len(rows)) + (contexts - ends + queries)[rows]
        slots = _slots(block_table, rows, positions, block_size)
        chunked = max(query_lens) > 1 and max(context_lens) > 0
        metadata = AttentionMetadata(
            query_start_loc=functional.pad(ends, (1, 0)).to(device, torch.int32),
            seq_lens=(queries + contexts).to(device, torch.int32),
            block_table=block_table.to(device),
            slot_mapping=slots.to(device),
            max_query_len=max(query_lens),
            max_seq_len=block_table.shape[1] * block_size,
            cached=_cached_keys(queries + contexts, block_table, block_size, device) if chunked else None,
        )
        return cls(input_ids.to(device), positions.to(device), metadata)


def _slots(table: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Where tokens lie, (tokens,) int64: page * block_size + offset."""
    return table[rows, positions // block_size].long() * block_size + positions % block_size


def _cached_keys(lengths: torch.Tensor, table: torch.Tensor, block_size: int, device: torch.device) -> CachedKeys:
    """All tokens of sequences of given lengths, (batch,) int64 on the host."""
    ends = lengths.cumsum(0)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    positions = torch.arange(len(rows)) - (ends - lengths)[rows]
    return CachedKeys(
        slots=_slots(table, rows, positions, block_size).to(device),
        start_loc=functional.pad(ends, (1, 0)).to(device, torch.int32),
        max_len=int(lengths.max()),
    )


def linear_block_table(
    num_seqs: int, max_len: int, block_size: int, permutation: Sequence[int] | None = None
) -> torch.Tensor:
    """Pages for sequences of equal length, on the host.

    Args:
        num_seqs: how many sequences.
        max_len: the most tokens of each.
        block_size: tokens of a page.
        permutation: the pages in the order in which they are dealt; None counts up.

    Returns:
        (num_seqs, pages of max_len) int32, no page twice.
    """
    width = -(-max_len // block_size)
    pages = torch.arange(num_seqs * width) if permutation is None else torch.tensor(permutation)
    return pages.to(torch.int32).view(num_seqs, width)


def kv_cache_shape(config: Any, num_blocks: int, block_size: int) -> tuple[int, int, int, int]:
    """(num_blocks, block_size, KV heads of this rank, head size)."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return num_blocks, block_size, max(1, config.num_key_value_heads // get_tp_size()), head_size


def allocate_kv_caches(
    config: Any,
    num_blocks: int,
    block_size: int,
    device: torch.device,
    dtype: torch.dtype,
    num_layers: int | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(keys, values) of each layer, of `kv_cache_shape`. Zeros: kernels may multiply what they mask by 0."""
    shape = kv_cache_shape(config, num_blocks, block_size)
    return [
        (torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
        for _ in range(config.num_hidden_layers if num_layers is None else num_layers)
    ]
