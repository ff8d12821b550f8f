"""How a window opens and closes: words in memory that referee and player share.

A message takes tens of microseconds of Python on either side, never equally many, and a kernel takes two. So a player
is told beforehand what it will run; within the window one word says go, and one says done. Neither says anything else:
who rings too early leaves outputs that are not there yet. Where a player's work is a CUDA graph, it is enqueued
beforehand too, and the devices' streams say both to one another.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

from fastkernels_gym.player.memory import memfd, seal
from fastkernels_gym.player.protocol import PeerClosed
from fastkernels_gym.player.semaphores import Semaphores

_SIZE = 4096
_GO, _ARMED, _DONE = range(3)  # bytes
_GO_WORD, _DONE_WORD = 16, 32  # 32 bits each, in lines of their own
_LOOKS = 64  # between two looks at anything else


class Doorbell:
    """One end; windows are numbered from 1, so that nothing needs to be reset.

    Args:
        fd: of the memory, which the other end has too.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self._bytes = fd, mmap.mmap(fd, _SIZE)
        self._semaphores = Semaphores(self._bytes)

    @classmethod
    def create(cls) -> Doorbell:
        fd = memfd(_SIZE)
        seal(fd, read_only=False)
        return cls(fd)

    def close(self) -> None:
        self._semaphores.close()
        self._bytes.close()
        os.close(self.fd)

    # The referee's

    def go(self, window: int) -> None:
        self._bytes[_GO] = _byte(window)

    def armed(self, window: int) -> bool:
        return self._bytes[_ARMED] == _byte(window)

    def done(self, window: int) -> bool:
        return self._bytes[_DONE] == _byte(window)

    def hand_over(self, window: int) -> None:
        """In the current stream: says go, and what comes next waits until the player's stream says done."""
        self._semaphores.write(_GO_WORD, window)
        self._semaphores.wait_for(_DONE_WORD, window)

    def handed_back(self, window: int) -> bool:
        """Whether the player's stream has said done."""
        return self._semaphores[_DONE_WORD] >= window

    def take_back(self, window: int) -> None:
        """Says done in the place of a player that will not."""
        self._semaphores[_DONE_WORD] = window

    # The player's

    def answer(self, window: int, work: Callable[[], None], hung_up: Callable[[], bool]) -> None:
        """Waits for the go, works, and says so.

        Raises:
            PeerClosed: if the referee has `hung_up` instead.
        """
        self._bytes[_ARMED] = _byte(window)
        while not any(self._bytes[_GO] == _byte(window) for _ in range(_LOOKS)):
            if hung_up():
                raise PeerClosed("nobody will ring")
        work()
        self._bytes[_DONE] = _byte(window)

    def enqueue(self, window: int, work: Callable[[], None]) -> None:
        """Has the current stream wait for the go, do what `work` enqueues, and say so."""
        self._semaphores.wait_for(_GO_WORD, window)
        work()
        self._semaphores.write(_DONE_WORD, window)
        self._bytes[_ARMED] = _byte(window)


def _byte(window: int) -> int:
    return (window - 1) % 255 + 1


def awake_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Waits without sleeping, since a sleeper wakes up late and never equally late; False after `timeout` seconds."""
    deadline = time.perf_counter() + timeout
    while True:
        for _ in range(_LOOKS):
            if condition():
                return True
        if time.perf_counter() > deadline:
            return False
