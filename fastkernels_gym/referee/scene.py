"""A phase of the workload brought to life: a batch, its KV pages, and what every operator is fed in it.

Inputs of an operator are what the model feeds it: a scene runs the referee's private model on fresh random tokens and
keeps the operator's arguments. KV pages are filled by a private prefill under a random block table.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastkernels_gym.engine.batch import Batch, kv_cache_shape
from fastkernels_gym.engine.step import forward_step
from fastkernels_gym.player.protocol import TensorRef
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.arena import Region
from fastkernels_gym.referee.pages import BLOCK_SIZE, PageOrder
from fastkernels_gym.referee.subject import Subject
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata

_PREFILL_TOKENS = 8192
_METADATA = ("query_start_loc", "seq_lens", "block_table", "slot_mapping")


@dataclass(frozen=True, slots=True)
class Given:
    """An argument that the model computed: the referee's own copy, strides kept."""

    tensor: torch.Tensor


@dataclass(frozen=True, slots=True)
class Shared:
    """An argument that is a weight or a KV page of a region both sides have."""

    ref: TensorRef


@dataclass(frozen=True, slots=True)
class Ambient:
    """An argument that is a tensor of the pass's attention metadata: what it says depends on where pages lie."""

    name: str


Argument = Given | Shared | Ambient | int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one submodule (or, with an empty path, of the whole model) in a scene.

    `shift` is by how many rows its slots lie beyond the pass's own, in rows that are nobody's.
    """

    path: str
    arguments: tuple[Argument, ...]
    shift: int = 0

    def with_floats(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same call with every computed floating-point argument changed."""
        changed = []
        for argument in self.arguments:
            if isinstance(argument, Given) and argument.tensor.is_floating_point():
                argument = Given(same_layout(argument.tensor).copy_(change(argument.tensor)))
            changed.append(argument)
        return replace(self, arguments=tuple(changed))


class Scene:
    """One phase at fixed lengths.

    Args:
        subject: the referee's model.
        name: a name for messages.
        query_lens: new tokens of each sequence.
        context_lens: tokens of each sequence in the KV cache before the pass.

    Attributes:
        caches: all pages: keys and values of layer 0, of layer 1 and so on, (2 * layers, pages, ...).
        words: the same memory in words of 8 bytes, (2 * layers, pages, words of a page).
        order: in which players hold the pages unless another is drawn: the referee's own.
    """

    def __init__(
        self, subject: Subject, name: str, query_lens: Sequence[int], context_lens: Sequence[int], rng: random.Random
    ) -> None:
        self.subject, self.name, self._rng = subject, name, rng
        self.query_lens, self.context_lens = tuple(query_lens), tuple(context_lens)
        self._generator = torch.Generator(subject.device).manual_seed(rng.getrandbits(63))
        blocks = [-(-(q + c) // BLOCK_SIZE) for q, c in zip(query_lens, context_lens, strict=True)]
        order = rng.sample(range(sum(blocks)), sum(blocks))
        table = torch.zeros(len(blocks), max(blocks), dtype=torch.int32)
        for row, count in enumerate(blocks):
            table[row, :count] = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int32)
        self.kv = Region(f"kv:{name}", subject.device)
        shape = kv_cache_shape(subject.model.config, sum(blocks), BLOCK_SIZE)
        caches = torch.empty(2 * subject.num_layers, *shape, dtype=subject.model.dtype, device="meta")
        self.caches = self.kv.reserve_like(caches)
        places = [self.caches.part(index, caches.dtype.itemsize) for index in range(len(caches))]
        self.kv_refs = list(zip(places[0::2], places[1::2], strict=True))
        words = caches.flatten(2).view(torch.int64)
        self.words = TensorRef(self.kv.name, self.caches.offset, tuple(words.shape), words.stride(), "int64")
        self.kv_caches = [(self.kv.tensor(k), self.kv.tensor(v)) for k, v in self.kv_refs]
        self._by_pointer = {self.kv.tensor(r).data_ptr(): r for pair_ in self.kv_refs for r in pair_}
        self._fill_context(context_lens, table)
        self.batch = self._batch(self.query_lens, context_lens, table)
        self.graph = max(query_lens) == 1
        self.order = PageOrder(self, torch.arange(sum(blocks), device=subject.device))

    @property
    def spare_rows(self) -> int:
        """Rows behind the last token of every decoding sequence, in its last page: nobody's."""
        lengths = [q + c for q, c in zip(self.query_lens, self.context_lens, strict=True)]
        return min(-length % BLOCK_SIZE for length in lengths) if self.graph else 0

    @property
    def fewest_calls(self) -> int:
        """How many of its calls it takes for a ratio of errors to be a statistic: a row each token, at the least."""
        return math.ceil(numerics.FEWEST_ROWS / sum(self.query_lens))

    @property
    def pages(self) -> set[TensorRef]:
        """Every layer's keys and values."""
        return {ref for pair in self.kv_refs for ref in pair}

    def draw_tokens(self, out: torch.Tensor) -> None:
        """Fresh token ids, uniform over the vocabulary."""
        self._generator.seed()  # what players have seen of it tells nothing
        torch.randint(self.subject.model.config.vocab_size, out.shape, generator=self._generator, out=out)

    def shuffled(self, length: int) -> torch.Tensor:
        """A permutation, (length,) int64, uniformly drawn."""
        return torch.randperm(length, generator=self._generator, device=self.subject.device)

    def whole_model(self) -> Call:
        """The full model's own call: input ids and positions."""
        return Call("", (Given(self.batch.input_ids.clone()), Given(self.batch.positions.clone())))

    def record(self, wanted: Mapping[str, int]) -> list[Call]:
        """Runs a pass on fresh tokens and keeps what submodules were called with; it ends with the last of them.

        Args:
            wanted: how many calls to keep of each path.

        Returns:
            The calls, in the order in which they were made.
        """
        left, calls, hooks = dict(wanted), [], []

        def keep(path: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
            def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if left[path] > 0:
                    left[path] -= 1
                    calls.append(Call(path, tuple(map(self._argument, _positional(module, args, kwargs)))))
                    if not any(left.values()):
                        raise _AllKept

            return hook

        for path in wanted:
            module = self.subject.module.get_submodule(path)
            hooks.append(module.register_forward_pre_hook(keep(path), with_kwargs=True))
        try:
            self.draw_tokens(self.batch.input_ids)
            with contextlib.suppress(_AllKept):
                forward_step(self.subject.module, self.batch, self.kv_caches)
        finally:
            for hook in hooks:
                hook.remove()
        return calls

    def _argument(self, value: Any) -> Argument:
        if not isinstance(value, torch.Tensor):
            return value  # type: ignore[no-any-return]
        ref = self.subject.weight_at(value) or self._by_pointer.get(value.data_ptr())
        if ref is not None and ref.shape == tuple(value.shape):
            return Shared(ref)
        for name, tensor in metadata_tensors(self.batch.metadata).items():
            if value.data_ptr() == tensor.data_ptr() and value.shape == tensor.shape:
                return Ambient(name)
        return Given(same_layout(value))

    def _batch(self, query_lens: Sequence[int], context_lens: Sequence[int], table: torch.Tensor) -> Batch:
        ids = torch.empty(sum(query_lens), dtype=torch.int64, device=self.subject.device)
        self.draw_tokens(ids)
        return Batch.build(query_lens, context_lens, table, BLOCK_SIZE, self.subject.device, ids)

    def _fill_context(self, context_lens: Sequence[int], table: torch.Tensor) -> None:
        rows = [row for row, length in enumerate(context_lens) if length > 0]
        while rows:
            chunk = [rows.pop(0)]
            while rows and sum(context_lens[r] for r in (*chunk, rows[0])) <= _PREFILL_TOKENS:
                chunk.append(rows.pop(0))
            lengths = [context_lens[r] for r in chunk]
            forward_step(self.subject.module, self._batch(lengths, [0] * len(chunk), table[chunk]), self.kv_caches)


class _AllKept(Exception):
    """Ends a pass that has shown what it was run for."""


def same_layout(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that a tensor spans, gaps included: (span,)."""
    span = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,))


def _positional(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The call's arguments in the order of the operator's signature."""
    if not kwargs:
        return args
    bound = inspect.signature(module.forward_native).bind(*args, **kwargs)
    bound.apply_defaults()
    return tuple(bound.arguments.values())


def metadata_tensors(metadata: AttentionMetadata) -> dict[str, torch.Tensor]:
    """The metadata's tensors by name; the rest of it are numbers."""
    return {name: getattr(metadata, name) for name in _METADATA}
