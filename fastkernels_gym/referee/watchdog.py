"""What bounds a player from outside: its life, its processes and their memory, which no rlimit does for root's own.

What a player's files in /proc hold is its own to choose, names of processes among them: bytes, not text.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fastkernels_gym.player.sandbox import Limits
from fastkernels_gym.results import Verdict

_POLL_S = 0.1


class Watchdog(threading.Thread):
    """Kills what takes more than its limits.

    Args:
        pid: the player's, as the referee sees it.
        limits: its own.
        kill: ends the player and all it started.

    Attributes:
        overrun: of which limit, and by what it was killed; None while it was not.
    """

    def __init__(self, pid: int, limits: Limits, kill: Callable[[], None]) -> None:
        super().__init__(daemon=True, name=f"watchdog-{pid}")
        self._pid, self._limits, self._kill = pid, limits, kill
        self._stopped = threading.Event()
        self.overrun: tuple[Verdict, str] | None = None

    def run(self) -> None:
        end = time.monotonic() + self._limits.lifetime_s
        try:
            while self.overrun is None and not self._stopped.wait(_POLL_S):
                pids = self.pids()
                if (used := _used_bytes(pids)) > (most := self._limits.memory_bytes):
                    self._end(Verdict.OUT_OF_MEMORY, f"{used >> 20} MiB of host memory, over the limit of {most >> 20}")
                elif time.monotonic() > end:
                    self._end(Verdict.TIMEOUT, f"not judged after {self._limits.lifetime_s:.0f} s")
        except Exception as error:  # who cannot be watched does not go on
            self._end(Verdict.RUNTIME_ERROR, f"its processes could not be watched: {error}")

    def pids(self) -> list[int]:
        """The player's processes; who has more than it may is killed: some would not be among them."""
        pids = _tree(self._pid, self._limits.processes + 1)
        if len(pids) > self._limits.processes:
            self._end(Verdict.OUT_OF_MEMORY, f"over {self._limits.processes} processes")
        return pids

    def names(self) -> set[str]:
        """Names of the programs that run in the player's tree."""
        names = set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                names.add(Path(f"/proc/{pid}/comm").read_bytes().decode(errors="replace").strip())
        return names

    def _end(self, verdict: Verdict, detail: str) -> None:
        self.overrun = self.overrun or (verdict, detail)
        self._kill()

    def stop(self) -> None:
        self._stopped.set()
        if self.is_alive():
            self.join()


def _tree(root: int, limit: int) -> list[int]:
    """The process and its descendants; orphans of a pid namespace are children of its first process."""
    pids, position = [root], 0
    while position < len(pids) < limit:
        tasks = f"/proc/{pids[position]}/task"
        with contextlib.suppress(OSError):
            for task in os.listdir(tasks):  # by hand: this is done between windows
                with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb") as children:
                    pids.extend(map(int, children.read().split()))
        position += 1
    return pids


def _used_bytes(pids: Sequence[int]) -> int:
    """Anonymous memory, private and shared, and files without a name; the arena, the referee's own, does not count.

    Shared pages count beyond what the arena and those files could explain: the kernel does not tell them apart.
    """
    arena = dict(_memfds("self"))
    files = {file: size for pid in pids for file, size in _memfds(str(pid)) if file not in arena}
    explained = sum(arena.values()) + sum(files.values())
    resident = [_resident_bytes(pid) for pid in pids]
    shared = sum(max(0, pages - explained) for _, pages in resident)
    return sum(private for private, _ in resident) + shared + sum(files.values())


def _resident_bytes(pid: int) -> tuple[int, int]:
    """Resident anonymous memory and resident shared memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0, 0
    found = dict(re.findall(rb"^Rss(Anon|Shmem):\s*(\d+)", status, re.MULTILINE))
    return int(found.get(b"Anon", 0)) << 10, int(found.get(b"Shmem", 0)) << 10


def _memfds(pid: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Device and inode, and bytes allocated, of a process's open memfds."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/memfd:"):
                    status = os.stat(entry.path)
                    yield (status.st_dev, status.st_ino), status.st_blocks * 512
