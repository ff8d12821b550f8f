"""The device's own clock: windows that no processor takes part in.

Python, the driver and the operating system take 20 to 100 us of a window, never equally many; what the device does
takes the same to a microsecond (docs/decisions.md). So all of a window is enqueued before it opens: the inputs' reveal,
the player's work in the player's own stream, the copies of its outputs. One stream tells the other when its turn has
come, and the device stamps the two ends. Both stamps are taken in the referee's stream, out of any player's reach.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import torch

from fastkernels_gym.player.semaphores import Semaphores

_GATE = 0


class DeviceClock:
    """Times what is enqueued in the current stream, which waits behind a gate until all of it is there."""

    def __init__(self) -> None:
        self._page, self._windows = mmap.mmap(-1, mmap.PAGESIZE), 0
        self._gate = Semaphores(self._page)
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self, enqueue: Callable[[], None], watch: Callable[[], None]) -> float:
        """What the work takes.

        Args:
            enqueue: puts it into the current stream; must not wait for the device.
            watch: is called all the time while the window is open.
        """
        self._windows += 1
        self._gate.wait_for(_GATE, self._windows)
        try:
            self._begin.record()
            enqueue()
            self._end.record()
        finally:
            self._gate[_GATE] = self._windows
        while not self._end.query():
            watch()
        return float(self._begin.elapsed_time(self._end)) / 1000

    def close(self) -> None:
        self._gate.close()
        self._page.close()
