"""One evaluation at a time on a GPU, whoever asks for it: evaluators of other processes wait for its end.

A lock of the operating system on a file named after the device: who dies lets go of it. Containers that share a GPU
but no folder for temporary files do not see each other; nor does who comes after the file was removed see its holder.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from fastkernels_gym.errors import HarnessFault

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
        """Within it nobody else has the device; gives the seconds that it took to get it.

        Raises:
            HarnessFault: if the file cannot be locked.
        """
        begin = time.monotonic()
        with ExitStack() as files:  # a file's end is its lock's too
            try:
                while not self._locks(files.enter_context(open(self._path, "rb", opener=_open)), begin):
                    files.close()
            except OSError as error:
                raise HarnessFault(
                    f"cannot lock {self._path}: {error.strerror or error}. "
                    "Fix: remove it, or set TMPDIR to a folder that all users of this GPU share"
                ) from error
            yield time.monotonic() - begin

    def _locks(self, file: IO[bytes], begin: float) -> bool:
        """Waits for the lock; False if a cleaner took the file meanwhile: who comes now locks another."""
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        while not _taken(file):
            if time.monotonic() - begin >= self._patience_s:
                print(f"waiting: another evaluator judges on {self._device}", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                break
            time.sleep(0.05)
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), os.lstat(self._path))
        return False


def _taken(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: str, flags: int) -> int:
    """For reading, which suffices for a lock: the file may be another user's. Waits for no FIFO's writer."""
    flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with suppress(FileNotFoundError):  # O_CREAT would be refused on another user's file in /tmp
            return os.open(path, flags)
        with suppress(FileExistsError):  # somebody was faster
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(file, 0o644)  # whatever the umask: other users have to read it
            return file
