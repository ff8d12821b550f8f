"""What a forward pass knows beside its arguments: attention metadata, KV caches, and whether references run.

The only state of the operators that is not an argument or a module; it lives in context variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class CachedKeys:
    """Which keys and values a prefill reads where earlier passes have stored some of them.

    Args:
        slots: (keys,) int64; page * block_size + offset of every token of the sequences, new ones included.
        start_loc: (batch + 1,) int32; sequence i holds slots [i] to [i + 1].
        max_len: most tokens of any sequence.
    """

    slots: torch.Tensor
    start_loc: torch.Tensor
    max_len: int


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """How the tokens of a batch fall into sequences, and where their keys and values lie.

    Args:
        query_start_loc: (batch + 1,) int32; sequence i holds tokens [i] to [i + 1] of the flat batch.
        seq_lens: (batch,) int32; context plus new tokens of each sequence.
        block_table: (batch, max_blocks) int32; the pages of each sequence, in order.
        slot_mapping: (tokens,) int64; page * block_size + offset of each new token, -1 for padding.
        max_query_len: most new tokens of any sequence; 1 makes it a decode step.
        max_seq_len: a bound on `seq_lens`.
        cached: what a prefill reads from the cache; None where the new tokens are all that there are.
    """

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    max_query_len: int
    max_seq_len: int
    cached: CachedKeys | None = None

    @property
    def is_decode(self) -> bool:
        return self.max_query_len == 1


@dataclass(frozen=True, slots=True)
class Trace:
    """What a pass leaves of the states between its layers: state i enters layer i, the last one leaves the last layer.

    Args:
        hidden_states: (layers + 1, tokens, hidden); of every state.
        residual: (layers, tokens, hidden); of every state but the first, which has none.
    """

    hidden_states: torch.Tensor
    residual: torch.Tensor


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """One pass.

    Args:
        attn_metadata: of its batch.
        kv_caches: each layer's keys and values, (num_blocks, block_size, kv_heads, head_size) each.
        trace: where the states between layers go, if anywhere.
    """

    attn_metadata: AttentionMetadata
    kv_caches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    trace: Trace | None = None

    def layer_cache(self, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The KV cache of the layer that a prefix such as `model.layers.3.self_attn` lies in."""
        return self.kv_caches[layer_index(prefix)]


_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")
_context: ContextVar[ForwardContext | None] = ContextVar("forward_context", default=None)
_reference: ContextVar[bool] = ContextVar("reference_mode", default=False)


def layer_index(prefix: str) -> int:
    """The number of the layer in a prefix.

    Raises:
        ValueError: if the prefix names no layer.
    """
    found = _LAYER.search(prefix)
    if found is None:
        raise ValueError(f"prefix {prefix!r} names no layer: expected '...layers.<n>...'")
    return int(found[1])


@contextmanager
def set_forward_context(context: ForwardContext) -> Iterator[None]:
    """Makes `context` the current pass."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def get_forward_context() -> ForwardContext:
    """The current pass.

    Raises:
        RuntimeError: outside `set_forward_context`.
    """
    context = _context.get()
    if context is None:
        raise RuntimeError("no forward context: run the model inside set_forward_context(...)")
    return context


def record_layer(index: int, hidden_states: torch.Tensor, residual: torch.Tensor | None) -> None:
    """Hands over the state that enters layer `index`; every L4 model must, and after its last layer what leaves it.

    The state is copied at once, so the next layer may overwrite it. A pass that is not traced copies nothing.

    Args:
        index: 0 to the number of layers.
        hidden_states: (tokens, hidden).
        residual: (tokens, hidden), or None before the first layer.
    """
    context = _context.get()
    if context is None or context.trace is None:
        return
    trace = context.trace
    if residual is None:
        trace.hidden_states[index].copy_(hidden_states)
    else:  # one kernel
        torch._foreach_copy_([trace.hidden_states[index], trace.residual[index - 1]], [hidden_states, residual])


@contextmanager
def reference_mode() -> Iterator[None]:
    """Within it every operator runs `forward_native`, on any device."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def in_reference_mode() -> bool:
    """Whether references run on any device."""
    return _reference.get()
