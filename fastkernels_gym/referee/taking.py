"""What a window leaves: copies of its outputs, or where they are large and the burst is timed, of a sample of them.

Whatever the burst's length, all calls' outputs are taken: a fixed cost, which the slope over the length leaves out.
Which pieces the sample holds nobody knows before the clock has stopped; what was not computed by then is missing there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fastkernels_gym.referee.scene import flat

# A copy of a large output takes as long as a kernel that moves memory, and its jitter is the window's.
SAMPLED_BYTES = 8 << 20
_PIECE, _SHARE = 4096, 8  # elements that are taken or left together, and one in how many


class Sample:
    """Pieces of an output, the same of every call.

    Args:
        like: the output; contiguous.

    Attributes:
        chosen: (pieces,) int64; which.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._pieces = like.numel() // _PIECE
        self.chosen = torch.zeros(-(-self._pieces // _SHARE), dtype=torch.int64, device=like.device)
        self.draw()

    @classmethod
    def of(cls, like: torch.Tensor | None) -> Sample | None:
        """A sample of an output that is large enough."""
        if like is None or not like.is_contiguous() or like.nbytes < SAMPLED_BYTES or like.numel() % _PIECE:
            return None
        return cls(like)

    def draw(self) -> None:
        """Chooses other pieces."""
        self.chosen.random_(self._pieces)

    def of_output(self, output: torch.Tensor) -> torch.Tensor:
        """The pieces of an output of any dtype."""
        return output.reshape(self._pieces, _PIECE)[self.chosen]

    def empty(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(len(self.chosen), _PIECE, dtype=dtype, device=self.chosen.device)

    def take(self, target: torch.Tensor, source: torch.Tensor) -> None:
        torch.index_select(source.reshape(self._pieces, _PIECE), 0, self.chosen, out=target)


class Takes:
    """Where one player's outputs of a program's calls are taken to.

    Args:
        layout: outputs of a call; None for what is none.
        samples: of each, where it is large enough.
        calls: how many.
        cool: evicts the device's cache: what of the outputs lies there must not depend on how many calls ran.

    Attributes:
        shown: what the last window left, by call and output.
    """

    def __init__(
        self,
        layout: Sequence[torch.Tensor | None],
        samples: Sequence[Sample | None],
        calls: int,
        cool: Callable[[], None],
    ) -> None:
        self._cool = cool
        self._full = [[None if t is None else _empty_like(t) for t in layout] for _ in range(calls)]
        self._drawn = [
            [s.empty(t.dtype) if s and t is not None else t for s, t in zip(samples, full, strict=True)]
            for full in self._full
        ]
        self._samples = [*samples] * calls
        self._known: dict[tuple[int, bool], Callable[[], None]] = {}
        self.shown = self._full

    def know(self, n: int, sources: Sequence[torch.Tensor], device: torch.device) -> None:
        """Where the outputs of a burst of n calls will lie: those that have elements, one after the other."""
        everything = as_one(self._copying(sources, sampled=False), device)
        part = as_one(self._copying(sources, sampled=True), device) if any(self._samples) else everything
        self._known |= {(n, False): everything, (n, True): part}

    def knows(self, n: int) -> bool:
        return (n, False) in self._known

    def take(self, n: int, sources: Callable[[], Sequence[torch.Tensor]], *, sampled: bool) -> None:
        """Copies what a burst of n calls left, from where it is known to lie or from `sources`."""
        self.shown = self._drawn if sampled else self._full
        if self.knows(n):
            self._known[n, sampled]()
        else:
            self._copying(sources(), sampled=sampled)()

    def _copying(self, sources: Sequence[torch.Tensor], *, sampled: bool) -> Callable[[], None]:
        """What copies: all is laid out beforehand, since the window waits for it."""
        targets = [t for outputs in (self._drawn if sampled else self._full) for t in outputs]
        wanted = [(t, s) for t, s in zip(targets, self._samples, strict=True) if t is not None and t.numel()]
        parts = [self._cool]
        whole_targets: list[torch.Tensor] = []
        whole_sources: list[torch.Tensor] = []
        for (target, sample), source in zip(wanted, sources, strict=True):
            if sampled and sample is not None:
                parts.append(partial(sample.take, target, source))
            else:
                target, source = _flattened(target, source)
                whole_targets.append(target)
                whole_sources.append(source)
        if whole_targets:
            parts.append(partial(torch._foreach_copy_, whole_targets, whole_sources))
        return partial(_each, parts)


def _each(parts: Sequence[Callable[[], None]]) -> None:
    for part in parts:
        part()


def as_one(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """On a GPU the same work as one CUDA graph: hundreds of launches would be the referee's own time in a window."""
    if device.type == "cpu":
        return work
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        work()
        side.synchronize()
        graph = _captured(work, _anchor(device).pool())
    return graph.replay


@functools.cache
def _anchor(device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph that lives on, and with it the pool that all others share: what they copy lies elsewhere.

    Of each pool that was ever captured into, torch 2.11 keeps tens of kilobytes for good.
    """
    return _captured(lambda: torch.zeros(1, device=device), None)


def _captured(work: Callable[[], object], pool: Any) -> torch.cuda.CUDAGraph:
    """By hand: torch.cuda.graph would collect garbage and empty the allocator's cache."""
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        work()
    finally:
        graph.capture_end()
    return graph


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    """An empty tensor of the same strides, gaps included."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _flattened(take: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as plain memory where they are laid out alike: hundreds of strided copies would be a kernel each."""
    return (flat(take), flat(source)) if take.stride() == source.stride() else (take, source)
