"""Continuous batching: which tokens are in the next pass, and who gives up their pages when there are too few."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fastkernels_gym.engine.blocks import BlockManager, OutOfBlocks


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt being continued.

    Args:
        tokens: the prompt, then what was generated.
        prompt_len: how much of that is the prompt.
        max_new_tokens: how many to generate at most.
        temperature: 0 takes the likeliest token.
        stop: tokens after which it ends.
        generator: draws its tokens; None draws them with torch's global one.
        blocks: its pages; none while it waits.
        computed: its first tokens, whose keys and values lie in the pages.
        finished: whether nothing more will come.
    """

    tokens: list[int]
    prompt_len: int
    max_new_tokens: int = 1
    temperature: float = 0.0
    stop: frozenset[int] = frozenset()
    generator: torch.Generator | None = None
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    finished: bool = False

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt_len :]

    @property
    def pending(self) -> int:
        """Tokens that the model has not read: one in a decode step, several in a prefill."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class Part:
    """A sequence's share of a pass: its next `count` pending tokens."""

    generation: Generation
    count: int


class Scheduler:
    """Prefills whoever waits as soon as pages allow; else everybody running decodes a token.

    A prompt beyond the bound is prefilled in chunks, and between two chunks the others decode. When pages run out the
    youngest running sequence goes back to the head of the queue; its tokens, generated ones included, are prefilled
    again later. The oldest always advances, so all finish.

    Args:
        blocks: deals the pages; every sequence fits into them alone.
        max_batch: most sequences of a pass.
        max_prefill_tokens: most tokens of a prefill.
    """

    def __init__(self, blocks: BlockManager, max_batch: int, max_prefill_tokens: int) -> None:
        self._waiting, self._running = deque[Generation](), list[Generation]()
        self._blocks, self._max_batch, self._max_prefill_tokens = blocks, max_batch, max_prefill_tokens
        self._decode_next = False

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, generation: Generation) -> None:
        """Queues a sequence."""
        self._waiting.append(generation)

    def schedule(self) -> Sequence[Part]:
        """The next pass, with pages for all its tokens: chunks of prompts, or one token a sequence."""
        parts = [] if self._decode_next else self._prefill()
        if not parts:
            parts = self._decode() or self._prefill()
        self._decode_next = any(part.count < part.generation.pending for part in parts)
        return parts

    def finish(self, generation: Generation) -> None:
        """Retires a sequence, whether it runs or waits; does nothing to one that has finished."""
        if generation.finished:
            return
        generation.finished = True
        if generation in self._running:
            self._running.remove(generation)
            self._blocks.free(generation.blocks)
        else:
            self._waiting.remove(generation)

    def preempt_all(self) -> None:
        """Takes back all pages."""
        while self._running:
            self._preempt()

    def _preempt(self) -> None:
        """Sends the youngest running sequence back to the head of the queue."""
        youngest = self._running.pop()
        self._blocks.free(youngest.blocks)
        youngest.computed = 0
        self._waiting.appendleft(youngest)

    def _prefill(self) -> list[Part]:
        """Prompts that were cut short go on, then new ones follow while rows, pages and tokens last."""
        parts, room = list[Part](), self._max_prefill_tokens
        for generation in self._running:
            if room and generation.pending > 1:
                parts.append(Part(generation, min(generation.pending, room)))
                room -= parts[-1].count
        while room and self._waiting and len(self._running) < self._max_batch:
            generation = self._waiting[0]
            try:
                generation.blocks = self._blocks.allocate(len(generation.tokens))
            except OutOfBlocks:
                break
            self._running.append(self._waiting.popleft())
            parts.append(Part(generation, min(generation.pending, room)))
            room -= parts[-1].count
        return parts

    def _decode(self) -> list[Part]:
        index = 0
        while index < len(self._running):
            generation = self._running[index]
            try:
                self._blocks.append(generation.blocks, len(generation.tokens))
                index += 1
            except OutOfBlocks:
                self._preempt()
        return [Part(generation, 1) for generation in self._running if generation.pending == 1]
