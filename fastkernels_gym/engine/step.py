"""One pass of a model over a batch, eagerly or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch
from fastkernels_gym.tasks.baseline.forward_context import (
    AttentionMetadata,
    ForwardContext,
    Trace,
    set_forward_context,
)

KVCaches = Sequence[tuple[torch.Tensor, torch.Tensor]]


def forward_step(model: nn.Module, batch: Batch, kv_caches: KVCaches, trace: Trace | None = None) -> torch.Tensor:
    """Logits of each sequence's last token, (batch, vocabulary); the states between layers go to `trace`."""
    with set_forward_context(ForwardContext(batch.metadata, kv_caches, trace)):
        return last_logits(model, model(batch.input_ids, batch.positions), batch.metadata)


def forward_hidden(model: nn.Module, batch: Batch, kv_caches: KVCaches) -> torch.Tensor:
    """The model's output for every token, (tokens, hidden)."""
    with set_forward_context(ForwardContext(batch.metadata, kv_caches)):
        hidden: torch.Tensor = model(batch.input_ids, batch.positions)
    return hidden


def last_logits(model: nn.Module, hidden: torch.Tensor, metadata: AttentionMetadata) -> torch.Tensor:
    """Logits of each sequence's last token, (batch, vocabulary), out of the model's output, (tokens, hidden)."""
    rows = hidden if metadata.is_decode else hidden[metadata.query_start_loc[1:].long() - 1]
    logits: torch.Tensor = model.compute_logits(rows)  # type: ignore[operator]
    return logits


def forward_logits(model: nn.Module, batch: Batch, kv_caches: KVCaches) -> torch.Tensor:
    """Logits of every token, (tokens, vocabulary)."""
    logits: torch.Tensor = model.compute_logits(forward_hidden(model, batch, kv_caches))  # type: ignore[operator]
    return logits


class CapturedStep:
    """A pass as a CUDA graph: write into the batch's tensors, then replay.

    Args:
        model: on a GPU.
        batch: its tensors are the graph's inputs, and already valid: warming up runs them. What it says in numbers,
            such as `max_seq_len`, the bound of the block table, holds for all replays.
        kv_caches: as bound in the graph.
        pool: memory that graphs share whose outputs are read before the next one replays; None takes its own.
        forward: what is captured: logits, or all tokens' states.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        kv_caches: KVCaches,
        pool: Any = None,
        forward: Callable[[nn.Module, Batch, KVCaches], torch.Tensor] = forward_step,
    ) -> None:
        self.batch = batch
        self._bound = model, kv_caches  # the graph reads and writes them, whoever else lets go of them
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                forward(model, batch, kv_caches)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Of this thread alone: NCCL's own thread asks after its events meanwhile.
        with own_workspaces(), torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._output = forward(model, batch, kv_caches)

    def replay(self) -> torch.Tensor:
        """What `forward` returned; overwritten by the next replay."""
        self._graph.replay()
        return self._output


@contextmanager
def own_workspaces() -> Iterator[None]:
    """Around a capture alone: the graph's matrix products work in memory that is its own.

    Else they share what cuBLAS keeps for the stream, which torch 2.11 gives away with the next graph of that stream
    that dies, a compiler's while it tunes perhaps (pytorch/pytorch#193402). What ran on the stream before, within this
    context, would have taken them from everyone's memory, and the graph would not own them.
    """
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
