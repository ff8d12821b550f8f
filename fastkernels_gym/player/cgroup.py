"""Bounds on a player's memory and tasks that the kernel keeps itself, in a cgroup (version 2) that the host set aside.

The group is called `fastkernels` and lies beside or above the evaluator's own; `fix` says how to make one. Each player
gets a group within it before any of a candidate's code runs. No process but players is moved, no other group touched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

NAME = "fastkernels"
_CONTROLLERS = {"memory", "pids"}
_SUBTREE = "cgroup.subtree_control"
_NUMBERS = itertools.count()
_EMPTY_S, _POLL_S = 20.0, 0.005


@dataclass(frozen=True, slots=True)
class Group:
    """One player's group."""

    path: Path

    @classmethod
    def create(cls, parent: Path, *, memory_bytes: int, tasks: int) -> Group:
        """A fresh group below `parent`.

        Args:
            parent: the group that the host set aside.
            memory_bytes: of all kinds, files in tmpfs included; beyond it the kernel kills the whole group.
            tasks: processes and their threads.

        Raises:
            OSError: if the host does not let us.
        """
        path = parent / f"player-{os.getpid()}-{next(_NUMBERS)}"
        path.mkdir()
        group = cls(path)
        try:
            for name, value in (("memory.max", memory_bytes), ("memory.oom.group", 1), ("pids.max", tasks)):
                (path / name).write_text(str(value))
            with contextlib.suppress(FileNotFoundError):  # without swap accounting there is no such file
                (path / "memory.swap.max").write_text("0")
        except OSError:
            group.remove()
            raise
        return group

    def admit(self, pid: int) -> None:
        """Moves a process here, and with it all that it will start."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def overrun(self) -> str:
        """The bound that was met, in words; empty if none was."""
        if self._count("memory.events", "oom_kill"):
            return f"over {int((self.path / 'memory.max').read_text()) >> 20} MiB of memory, files in /tmp included"
        return ""

    def remove(self) -> None:
        """Kills what is left in the group, and takes it away."""
        with contextlib.suppress(OSError):  # kernels before 5.14: the player's pid namespace died with it
            (self.path / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _EMPTY_S
        while self.path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # busy until its last process has been reaped
                self.path.rmdir()
                return
            time.sleep(_POLL_S)

    def _count(self, file: str, name: str) -> int:
        with contextlib.suppress(OSError):
            found = re.search(rf"^{name} (\d+)$", (self.path / file).read_text(), re.MULTILINE)
            return int(found[1]) if found else 0
        return 0


def find() -> Path:
    """The group that the host set aside.

    Raises:
        OSError: if there is none, or it cannot be used; the message says why.
    """
    mount, own = _mount(), _own()
    for folder in (mount / own, *(mount / own).parents):
        if mount not in (folder, *folder.parents):
            break
        if (folder / NAME / _SUBTREE).exists():
            return _usable(folder / NAME)
    raise OSError(f"no group {NAME!r} of cgroup version 2 beside or above this process's own, {mount / own}")


def fix() -> str:
    """How whoever owns the host sets a group aside."""
    try:
        mount = _mount()
    except OSError:
        return "as root: mount -t cgroup2 none /sys/fs/cgroup"
    if not _CONTROLLERS <= set((mount / "cgroup.controllers").read_text().split()):
        return "boot with systemd.unified_cgroup_hierarchy=1: memory and pids belong to cgroup version 1 here"
    own = f"{mount}/{NAME}"
    passes = "echo '+memory +pids' >"
    return f"as root: mkdir {own}; {passes} {mount}/{_SUBTREE}; {passes} {own}/{_SUBTREE}"


def _usable(group: Path) -> Path:
    missing = _CONTROLLERS - set((group / _SUBTREE).read_text().split())
    if missing:
        raise OSError(f"{group} does not pass on {', '.join(sorted(missing))}")
    Group.create(group, memory_bytes=1 << 30, tasks=16).remove()
    return group


def _mount() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return Path(fields.split()[4])
    raise OSError("cgroup version 2 is not mounted")


def _own() -> str:
    """This process's group, below the mount; a group outside of a container's view counts as its root."""
    found = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    return found[1] if found and not found[1].startswith("..") else ""
