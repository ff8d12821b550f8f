"""CUDA graphs of passes, one for each size that batches round up to: decode steps, and prompts of few tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch
from fastkernels_gym.engine.step import CapturedStep, KVCaches, forward_hidden, forward_step, last_logits
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata
from fastkernels_gym.tasks.baseline.parallel_state import get_tp_size

_MIN_WIDTH, _ROWS_STEP = 16, 16
_MIN_TOKENS, _MAX_TOKENS = 16, 2048  # of a graph of prompts: longer ones keep any device busy
_GAIN = 0.9  # of the eager pass's time, which a graph must stay below: others of its size may need more padding
# Attention over other types is the reference's, which reads the lengths on the host.
_GRAPHED_DTYPES = (torch.float16, torch.bfloat16)


class StepGraphs:
    """Runs passes, by graphs where that is faster.

    Args:
        model: on a GPU.
        kv_caches: as bound in every graph.
        block_size: tokens of a page.
    """

    def __init__(self, model: nn.Module, kv_caches: KVCaches, block_size: int) -> None:
        self._model, self._kv_caches = model, kv_caches
        pool = torch.cuda.graph_pool_handle()
        self._decodes = DecodeGraphs(model, kv_caches, block_size, pool)
        self._prefills = PrefillGraphs(model, kv_caches, pool)

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits of each sequence's last token, (batch, vocabulary); overwritten by the next run."""
        if batch.metadata.is_decode:
            return self._decodes.run(batch)
        if self._prefills.take(batch):
            return self._prefills.run(batch)
        return forward_step(self._model, batch, self._kv_caches)


class DecodeGraphs:
    """Captures a graph when its size is first met, and replays it from then on.

    Args:
        model: on a GPU.
        kv_caches: as bound in every graph.
        block_size: tokens of a page.
        pool: memory that graphs share.
    """

    def __init__(self, model: nn.Module, kv_caches: KVCaches, block_size: int, pool: Any) -> None:
        self._model, self._kv_caches, self._block_size, self._pool = model, kv_caches, block_size, pool
        self._steps: dict[tuple[int, int], CapturedStep] = {}

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


class PrefillGraphs:
    """Captures a graph of whole prompts when its size is first met, and replays it if it is faster than an eager pass.

    It is where launching takes longer than computing: short prompts, mixtures of experts. Prompts lie one behind the
    other; the last one is padded, which its own tokens, being before the padding, do not see. Ranks that share a model
    read prompts eagerly: each would choose by its own clock.

    Args:
        model: on a GPU.
        kv_caches: as bound in every graph.
        pool: memory that graphs share.
    """

    def __init__(self, model: nn.Module, kv_caches: KVCaches, pool: Any) -> None:
        self._model, self._kv_caches, self._pool = model, kv_caches, pool
        # Those that are not faster are kept too: the pool must not lose its only graph.
        self._steps: dict[tuple[int, int], tuple[CapturedStep, bool]] = {}

    def take(self, batch: Batch) -> bool:
        """Whether a batch is of whole prompts, and few enough tokens."""
        graphed = get_tp_size() == 1 and self._kv_caches[0][0].dtype in _GRAPHED_DTYPES
        return graphed and batch.metadata.cached is None and len(batch.input_ids) <= _MAX_TOKENS

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits of each prompt's last token, (batch, vocabulary)."""
        size = _power_of_two(len(batch.metadata.seq_lens)), _tokens_of_graph(len(batch.input_ids))
        if size not in self._steps:
            self._steps[size] = self._captured(batch, *size)
        step, faster = self._steps[size]
        if not faster:
            return forward_step(self._model, batch, self._kv_caches)
        write_prompts(step.batch, batch)
        return last_logits(self._model, step.replay(), batch.metadata)

    def _captured(self, batch: Batch, rows: int, tokens: int) -> tuple[CapturedStep, bool]:
        """The graph, and whether it is faster for this batch, padding included."""
        padded = padded_prompts(batch, rows, tokens)
        step = CapturedStep(self._model, padded, self._kv_caches, self._pool, forward_hidden)
        eager_s = _seconds(lambda: forward_hidden(self._model, batch, self._kv_caches))
        return step, _seconds(step.replay) < _GAIN * eager_s


def padded_prompts(batch: Batch, rows: int, tokens: int) -> Batch:
    """Whole prompts as a batch of a larger size, which stores nothing for the padding.

    Args:
        batch: of prompts.
        rows: sequences of the larger one; those beyond the batch are empty.
        tokens: of the larger one.
    """
    device = batch.input_ids.device
    metadata = AttentionMetadata(
        query_start_loc=torch.zeros(rows + 1, dtype=torch.int32, device=device),
        seq_lens=torch.zeros(rows, dtype=torch.int32, device=device),
        block_table=torch.zeros(rows, 1, dtype=torch.int32, device=device),
        slot_mapping=torch.zeros(tokens, dtype=torch.int64, device=device),
        max_query_len=tokens,
        max_seq_len=tokens,
    )
    ids, positions = torch.zeros(2, tokens, dtype=torch.int64, device=device)
    held = Batch(ids, positions, metadata)
    write_prompts(held, batch)
    return held


def write_prompts(held: Batch, batch: Batch) -> None:
    """Writes prompts into a batch of a larger size; a prefill reads neither pages nor `seq_lens`."""
    tokens, rows = len(batch.input_ids), len(batch.metadata.seq_lens)
    held.input_ids[:tokens] = batch.input_ids
    held.positions[:tokens] = batch.positions
    held.metadata.slot_mapping[:tokens] = batch.metadata.slot_mapping
    held.metadata.slot_mapping[tokens:] = -1
    held.metadata.query_start_loc[:rows] = batch.metadata.query_start_loc[:-1]
    held.metadata.query_start_loc[rows:] = len(held.input_ids)


def _seconds(work: Callable[[], object]) -> float:
    """The faster of two runs, to the end of what it launches."""
    found = []
    for _ in range(2):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return min(found)


def _rows_of_graph(rows: int) -> int:
    """1, 2, 4, 8, 16, then every multiple of 16: rows that nobody needs cost more the more there are."""
    return _power_of_two(rows) if rows <= _ROWS_STEP else -(-rows // _ROWS_STEP) * _ROWS_STEP


def _tokens_of_graph(tokens: int) -> int:
    """Four sizes from one power of two to the next: from 64 tokens on padding is at most a fifth."""
    step = max(_MIN_TOKENS, _power_of_two(tokens) // 8)
    return -(-tokens // step) * step


def _power_of_two(number: int) -> int:
    """The least one that is not below `number`."""
    return 1 << (number - 1).bit_length()
