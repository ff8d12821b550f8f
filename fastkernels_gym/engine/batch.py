"""A batch: tokens of several sequences, flat, and where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata
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
        positions, slots = [], []
        for row, (query, context) in enumerate(zip(query_lens, context_lens, strict=True)):
            where = torch.arange(context, context + query)
            positions.append(where)
            slots.append(block_table[row, where // block_size].long() * block_size + where % block_size)
        ends = torch.tensor([0, *query_lens]).cumsum(0)
        seq_lens = torch.tensor([q + c for q, c in zip(query_lens, context_lens, strict=True)])
        metadata = AttentionMetadata(
            query_start_loc=ends.to(device, torch.int32),
            seq_lens=seq_lens.to(device, torch.int32),
            block_table=block_table.to(device),
            slot_mapping=torch.cat(slots).to(device),
            max_query_len=max(query_lens),
            max_seq_len=block_table.shape[1] * block_size,
        )
        return cls(input_ids.to(device), torch.cat(positions).to(device), metadata)


def kv_cache_shape(config: Any, num_blocks: int, block_size: int) -> tuple[int, int, int, int]:
    """(num_blocks, block_size, KV heads of this rank, head size)."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return num_blocks, block_size, max(1, config.num_key_value_heads // get_tp_size()), head_size
