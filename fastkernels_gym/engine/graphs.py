"""CUDA graphs of decode steps, one for each size that numbers of sequences and of pages a sequence round up to."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch
from fastkernels_gym.engine.step import CapturedStep, KVCaches
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata

_MIN_WIDTH, _ROWS_STEP = 16, 16


class DecodeGraphs:
    """Captures a graph when its size is first met, and replays it from then on.

    Args:
        model: on a GPU.
        kv_caches: as bound in every graph.
        block_size: tokens of a page.
    """

    def __init__(self, model: nn.Module, kv_caches: KVCaches, block_size: int) -> None:
        self._model, self._kv_caches, self._block_size = model, kv_caches, block_size
        self._steps: dict[tuple[int, int], CapturedStep] = {}
        self._pool: Any = torch.cuda.graph_pool_handle()

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits of a decode step, (batch, vocabulary); overwritten by the next run."""
        rows, width = batch.metadata.block_table.shape
        size = (_rows_of_graph(rows), max(_MIN_WIDTH, _power_of_two(width)))
        if size not in self._steps:
            padding = self._padding(*size, device=batch.input_ids.device)
            self._steps[size] = CapturedStep(self._model, padding, self._kv_caches, pool=self._pool)
        step = self._steps[size]
        held, given = step.batch.metadata, batch.metadata
        held.slot_mapping[rows:] = -1  # rows beyond the batch read page 0 and write nothing
        held.seq_lens[rows:] = 1
        held.block_table[rows:] = 0
        held.block_table[:rows, :width] = given.block_table
        held.seq_lens[:rows] = given.seq_lens
        held.slot_mapping[:rows] = given.slot_mapping
        step.batch.input_ids[:rows] = batch.input_ids
        step.batch.positions[:rows] = batch.positions
        return step.replay()[:rows]

    def _padding(self, rows: int, width: int, *, device: torch.device) -> Batch:
        """A batch that stores nothing."""
        metadata = AttentionMetadata(
            query_start_loc=torch.arange(rows + 1, dtype=torch.int32, device=device),
            seq_lens=torch.ones(rows, dtype=torch.int32, device=device),
            block_table=torch.zeros(rows, width, dtype=torch.int32, device=device),
            slot_mapping=torch.full((rows,), -1, dtype=torch.int64, device=device),
            max_query_len=1,
            max_seq_len=width * self._block_size,
        )
        ids, positions = torch.zeros(2, rows, dtype=torch.int64, device=device)
        return Batch(ids, positions, metadata)


def _rows_of_graph(rows: int) -> int:
    """1, 2, 4, 8, 16, then every multiple of 16: rows that nobody needs cost more the more there are."""
    return _power_of_two(rows) if rows <= _ROWS_STEP else -(-rows // _ROWS_STEP) * _ROWS_STEP


def _power_of_two(number: int) -> int:
    """The least one that is not below `number`."""
    return 1 << (number - 1).bit_length()
