"""Times of calls as a GPU makes them back to back: a CUDA graph of them over rotating buffers, rivals in turns."""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from fastkernels_gym.engine.step import own_workspaces

MOST_CALLS = 512  # of a graph
_GRAPH_S = 1e-3  # the shortest graph: its launch then counts for less than 1 %
_RACE_S = 0.35
_FEWEST_ROUNDS, _MOST_ROUNDS = 7, 25

Calls = Sequence[Callable[[], object]]


class Runner(Protocol):
    """Something that can be timed again and again: `length` calls at a time."""

    length: int

    def seconds(self) -> float:
        """Seconds a call, over one repetition."""


class _Graph:
    """Calls in turns as one CUDA graph; the outputs of a whole turn live at once, so that they rotate too."""

    def __init__(self, calls: Calls, length: int) -> None:
        self.length = length
        stream = _side_stream()
        stream.wait_stream(torch.cuda.current_stream())
        self._graph = torch.cuda.CUDAGraph()
        outputs: deque[object] = deque(maxlen=len(calls))
        with torch.cuda.stream(stream), own_workspaces():
            # By hand: torch.cuda.graph collects garbage first, which takes longer than most captures.
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                for index in range(length):
                    outputs.append(calls[index % len(calls)]())
            finally:
                self._graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self) -> float:
        self._begin.record()
        self._graph.replay()
        self._end.record()
        self._end.synchronize()
        return self._begin.elapsed_time(self._end) * 1e-3 / self.length


class _Eager:
    """Calls in turns, launched one by one: on a CPU, or where a call waits for the device and no graph can hold it."""

    def __init__(self, calls: Calls, length: int, device: torch.device) -> None:
        self._calls, self.length, self._device = calls, length, device

    def seconds(self) -> float:
        wait(self._device)
        begin = time.perf_counter()
        for index in range(self.length):
            self._calls[index % len(self._calls)]()
        wait(self._device)
        return (time.perf_counter() - begin) / self.length


def runner(calls: Calls, device: torch.device, least_s: float) -> tuple[Runner, bool]:
    """What times calls, and whether it is a graph.

    Args:
        calls: one for each set of buffers; the first may compile.
        device: where they run.
        least_s: about what one takes at best, which decides how many a graph holds.
    """
    if device.type != "cuda":
        calls[0]()
        return _Eager(calls, len(calls), device), False
    for call in calls[:2]:
        call()
    if _waits(calls[0]):
        return _Eager(calls[:4], min(4, len(calls)), device), False
    length = max(len(calls), min(MOST_CALLS, math.ceil(_GRAPH_S / max(least_s, 2e-6))))
    return _Graph(calls, length), True


def race(runners: Mapping[str, Runner], budget_s: float = _RACE_S) -> dict[str, float]:
    """Seconds a call of each, the median of repetitions that take turns, about `budget_s` of them.

    In another order each round: a device at its power limit runs slower after work that used it well.
    """
    first = {name: one.seconds() for name, one in runners.items()}
    once = sum(max(one.seconds(), 1e-7) * one.length for one in runners.values())
    rounds = max(_FEWEST_ROUNDS, min(_MOST_ROUNDS, int(budget_s / once)))
    times: dict[str, list[float]] = {name: [] for name in first}
    for _ in range(rounds):
        for name in random.sample(list(runners), len(runners)):
            times[name].append(runners[name].seconds())
    return {name: statistics.median(found) for name, found in times.items()}


@functools.cache
def _side_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _waits(call: Callable[[], object]) -> bool:
    """Whether a call makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
