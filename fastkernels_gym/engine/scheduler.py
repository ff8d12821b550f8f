"""Continuous batching: which sequences run in the next pass, and who gives up their pages when there are too few."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastkernels_gym.engine.blocks import BlockManager, OutOfBlocks


@dataclass(slots=True, eq=False)
class Generation:
    """One prompt being continued.

    Args:
        tokens: the prompt, then what was generated.
        prompt_len: how much of that is the prompt.
        blocks: its pages; none while it waits.
    """

    tokens: list[int]
    prompt_len: int
    blocks: list[int] = field(default_factory=list)

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt_len :]


class Scheduler:
    """Prefills whoever waits as soon as pages allow; else everybody running decodes a token.

    When pages run out the youngest running sequence goes back to the head of the queue; its tokens, generated ones
    included, are prefilled again later. The oldest always advances, so all finish.

    Args:
        generations: in the order in which they are served; each fits into the pages alone.
        blocks: deals the pages.
        max_batch: most sequences of a pass.
        max_prefill_tokens: most tokens of a prefill, unless a single sequence has more.
    """

    def __init__(
        self, generations: Iterable[Generation], blocks: BlockManager, max_batch: int, max_prefill_tokens: int
    ) -> None:
        self._waiting, self._running = deque(generations), list[Generation]()
        self._blocks, self._max_batch, self._max_prefill_tokens = blocks, max_batch, max_prefill_tokens

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def schedule(self) -> tuple[Sequence[Generation], bool]:
        """Who is in the next pass, with pages for all their tokens, and whether it is a prefill."""
        admitted = self._admit()
        if admitted:
            self._running += admitted
            return admitted, True
        index = 0
        while index < len(self._running):
            generation = self._running[index]
            try:
                self._blocks.append(generation.blocks, len(generation.tokens))
                index += 1
            except OutOfBlocks:
                self._preempt()
        return tuple(self._running), False

    def finish(self, generation: Generation) -> None:
        """Retires a running sequence."""
        self._running.remove(generation)
        self._blocks.free(generation.blocks)

    def abort(self) -> None:
        """Frees all pages."""
        for generation in self._running:
            self._blocks.free(generation.blocks)
        self._running.clear()
        self._waiting.clear()

    def _admit(self) -> list[Generation]:
        admitted: list[Generation] = []
        tokens = 0
        while self._waiting and len(self._running) + len(admitted) < self._max_batch:
            generation = self._waiting[0]
            tokens += len(generation.tokens)
            if admitted and tokens > self._max_prefill_tokens:
                break
            try:
                generation.blocks = self._blocks.allocate(len(generation.tokens))
            except OutOfBlocks:
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _preempt(self) -> None:
        youngest = self._running.pop()
        self._blocks.free(youngest.blocks)
        self._waiting.appendleft(youngest)
