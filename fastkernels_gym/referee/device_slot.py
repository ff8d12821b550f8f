"""One evaluation at a time on a GPU, whoever asks for it: evaluators of other processes wait for its end.

A lock of the operating system on a file named after the device: who dies lets go of it. Containers that share a GPU
but no folder for temporary files do not see each other.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PATIENCE_S = 10.0  # without a word


class DeviceSlot:
    """The right to use a device.

    Args:
        device: a name that all processes have for it, such as a GPU's UUID.
        folder: that they share; None takes the one for temporary files.
        patience_s: seconds of waiting after which a line says why.
    """

    def __init__(self, device: str, folder: Path | None = None, patience_s: float = _PATIENCE_S) -> None:
        self._device, self._patience_s = device, patience_s
        self._path = Path(folder or tempfile.gettempdir(), f"fastkernels-gym-{device}.lock")

    @contextmanager
    def held(self) -> Iterator[float]:
        """Within it nobody else has the device; gives the seconds that it took to get it."""
        begin = time.monotonic()
        with _opened(self._path) as file:  # its end is the lock's too
            while not _taken(file):
                if time.monotonic() - begin >= self._patience_s:
                    print(f"waiting: another evaluator judges on {self._device}", file=sys.stderr, flush=True)
                    fcntl.flock(file, fcntl.LOCK_EX)
                    break
                time.sleep(0.05)
            yield time.monotonic() - begin


def _taken(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> IO[bytes]:
    """For reading, which suffices for a lock: the file may be another user's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    return os.fdopen(file, "rb")
