"""How a window opens and closes: bytes in memory that referee and player share.

A message takes tens of microseconds of Python on either side, never equally many, and a kernel takes two. So a player
is told beforehand what it will run; within the window one byte says go, and one says done. Neither says anything else:
who rings too early leaves outputs that are not there yet.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

from fastkernels_gym.player.memory import memfd, seal
from fastkernels_gym.player.protocol import PeerClosed

_SIZE = 4096
_GO, _ARMED, _DONE = range(3)
_LOOKS = 64  # between two looks at anything else


class Doorbell:
    """One end; windows are numbered, so that no byte needs to be reset.

    Args:
        fd: of the memory, which the other end has too.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self._bytes = fd, mmap.mmap(fd, _SIZE)

    @classmethod
    def create(cls) -> Doorbell:
        fd = memfd(_SIZE)
        seal(fd, read_only=False)
        return cls(fd)

    def close(self) -> None:
        self._bytes.close()
        os.close(self.fd)

    # The referee's

    def go(self, window: int) -> None:
        self._bytes[_GO] = window

    def armed(self, window: int) -> bool:
        return self._bytes[_ARMED] == window

    def done(self, window: int) -> bool:
        return self._bytes[_DONE] == window

    # The player's

    def answer(self, window: int, work: Callable[[], None], hung_up: Callable[[], bool]) -> None:
        """Waits for the go, works, and says so.

        Raises:
            PeerClosed: if the referee has `hung_up` instead.
        """
        self._bytes[_ARMED] = window
        while not any(self._bytes[_GO] == window for _ in range(_LOOKS)):
            if hung_up():
                raise PeerClosed("nobody will ring")
        work()
        self._bytes[_DONE] = window


def awake_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Waits without sleeping, since a sleeper wakes up late and never equally late; False after `timeout` seconds."""
    deadline = time.perf_counter() + timeout
    while True:
        for _ in range(_LOOKS):
            if condition():
                return True
        if time.perf_counter() > deadline:
            return False
