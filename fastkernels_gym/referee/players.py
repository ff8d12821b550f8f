"""The referee's end of a player: spawned from a zygote, asked with a deadline, watched, killed with all it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

from fastkernels_gym.errors import CandidateFault, PlayerLost, SandboxUnavailable
from fastkernels_gym.player import cgroup, headers
from fastkernels_gym.player.doorbell import Doorbell, awake_until
from fastkernels_gym.player.protocol import MAX_DETAIL, Channel, PeerClosed, ProtocolError
from fastkernels_gym.player.sandbox import Limits, command, readable
from fastkernels_gym.results import Verdict

START_TIMEOUT_S = 180.0
_POLL_S = 0.1
_AWAKE_S = 0.2  # of a window
# A player that is late while one of these runs below it is compiling, not hanging.
_COMPILERS = frozenset({"cc1plus", "cc1", "cicc", "ptxas", "nvcc", "nvlink", "g++", "gcc", "c++", "ld", "as", "ninja"})
# The faults that a player may plead guilty of; anything else it says of itself is tampering.
_PLEAS = frozenset(
    {
        Verdict.LOAD_ERROR,
        Verdict.INTERFACE_MISMATCH,
        Verdict.COMPILE_ERROR,
        Verdict.RUNTIME_ERROR,
        Verdict.DEVICE_FAULT,
        Verdict.OUT_OF_MEMORY,
    }
)

Hear = Callable[[], dict[str, Any]]
"""Waits for a player's answer."""


class Zygote:
    """The sandboxed process that forks players.

    Args:
        device: `cpu` or `cuda`.
        sandboxed: False runs players as plain processes of this user, for machines without namespaces.

    Raises:
        SandboxUnavailable: if it does not come up.
    """

    def __init__(self, device: str, *, sandboxed: bool = True) -> None:
        ours, theirs = socket.socketpair()
        # Players get an empty /tmp of their own, but for what the interpreter needs there.
        kept = [str(path) for path in readable() if Path("/tmp") in path.parents]
        mode = ["nested", *kept] if sandboxed else ["flat"]
        program = [sys.executable, "-P", "-m", "fastkernels_gym.player.zygote", str(theirs.fileno()), *mode]
        self._scratch = tempfile.TemporaryDirectory(prefix="fk-gym-") if not sandboxed else None
        line = program
        if sandboxed:
            line = command(program, device=device, cache=warm_cache(), compiled=headers.compiled())
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            line,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._scratch.name if self._scratch else None,
        )
        theirs.close()
        self._control = Channel(ours)
        self._groups: Path | None = None
        with contextlib.suppress(OSError):  # the layer is missing, and the evaluation says so
            self._groups = cgroup.find() if sandboxed else None
        try:
            self._control.receive(timeout=START_TIMEOUT_S)
        except (PeerClosed, TimeoutError) as error:
            reason = self._last_words()
            self.close()
            raise SandboxUnavailable(f"no player could be started: {reason}") from error

    def spawn(self, limits: Limits, *, threads: int, trusted: bool) -> Player:
        """A fresh player.

        Raises:
            PlayerLost: if the zygote is gone or the fork failed.
        """
        ours, theirs = socket.socketpair()
        channel, bell = Channel(ours), Doorbell.create()
        try:
            self._control.send({"limits": asdict(limits), "threads": threads}, [theirs.fileno(), bell.fd], timeout=10)
            theirs.close()
            _, fds = channel.receive(timeout=30)
        except (PeerClosed, ProtocolError, TimeoutError) as error:
            channel.close()
            bell.close()
            raise PlayerLost(f"no player could be forked: {self._last_words()}") from error
        try:
            return Player(channel, bell, fds[0], limits, trusted=trusted, groups=self._groups)
        except OSError as error:  # its channel is closed with it, which ends the player
            channel.close()
            bell.close()
            os.close(fds[0])
            raise PlayerLost(f"no group for a player: {error}") from error

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        if hasattr(self, "_control"):
            self._control.close()
        if self._scratch:
            self._scratch.cleanup()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Player:
    """One player process, named by its pidfd."""

    def __init__(
        self,
        channel: Channel,
        bell: Doorbell,
        pidfd: int,
        limits: Limits,
        *,
        trusted: bool,
        groups: Path | None = None,
    ) -> None:
        self._channel, self._bell, self._pidfd, self._trusted = channel, bell, pidfd, trusted
        self._windows = 0
        self._watchdog = Watchdog(_pid_of(pidfd), limits, self.kill)
        self._group: cgroup.Group | None = None
        if groups is not None and not trusted:
            self._group = cgroup.Group.create(groups, memory_bytes=limits.group_bytes, tasks=limits.threads)
            self._group.admit(_pid_of(pidfd))

    def ask(self, message: Mapping[str, Any], fds: Sequence[int] = (), *, timeout: float) -> dict[str, Any]:
        """Sends a command and waits for its answer.

        Args:
            message: the command.
            fds: descriptors that go with it.
            timeout: seconds for sending it, and again for the answer.

        Raises:
            CandidateFault: what the player pleaded, or what its silence or death means.
            PlayerLost: the same of a trusted player.
        """
        return self.begin(message, fds, timeout=timeout)()

    def begin(
        self, message: Mapping[str, Any], fds: Sequence[int] = (), *, timeout: float, awake: bool = False
    ) -> Hear:
        """Sends a command, and gives what waits for its answer; faults as of `ask`.

        Args:
            message: the command.
            fds: descriptors that go with it.
            timeout: seconds for sending it, and again for the answer.
            awake: whether the first moments of the wait are not slept through.
        """
        with self._attributed(message["op"], timeout):
            self._channel.send(message, fds, timeout=timeout)

        def hear() -> dict[str, Any]:
            if awake:
                awake_until(self._channel.pending, _AWAKE_S)
            return self._answer(message["op"], timeout)

        return hear

    @contextlib.contextmanager
    def armed(self, message: Mapping[str, Any], *, timeout: float) -> Iterator[Callable[[], Hear]]:
        """Sends a command that waits for the doorbell, and gives what rings it; that gives what waits until it is done.

        The answer is waited for at the end, outside of whatever is timed within: what waits gives an empty one. Raises
        as `ask` does.

        Args:
            message: the command.
            timeout: seconds for each step.
        """
        window = self._windows = self._windows % 255 + 1
        command, heard = message["op"], False

        def wait_for(rung: Callable[[int], bool], awake_s: float) -> dict[str, Any]:
            nonlocal heard
            if not heard:
                awake_until(lambda: rung(window) or self._channel.pending(), awake_s)
            if not heard and not rung(window):  # it pleads, it is gone, or it takes long
                self._answer(command, timeout)
                heard = True
            return {}

        def ring() -> Hear:
            self._bell.go(window)
            return partial(wait_for, self._bell.done, _AWAKE_S)

        self.begin({**message, "window": window}, timeout=timeout)
        wait_for(self._bell.armed, timeout)
        yield ring
        if not heard:
            self._answer(command, timeout)

    @contextlib.contextmanager
    def _attributed(self, command: str, timeout: float) -> Iterator[None]:
        """Makes the player's fault of whatever goes wrong with the channel."""
        try:
            yield
        except TimeoutError:
            compiling = self._watchdog.names() & _COMPILERS
            self.kill()
            verdict = Verdict.COMPILE_TIMEOUT if compiling else Verdict.TIMEOUT
            what = f"{min(compiling)} was still running" if compiling else "it neither returned nor compiled anything"
            raise self._fault(verdict, f"no end of {command!r} within {timeout:.0f} s: {what}") from None
        except PeerClosed:
            raise self._fault(*self._death(command)) from None
        except ProtocolError as error:
            self.kill()
            raise self._fault(Verdict.PROTOCOL_TAMPER, str(error)) from None

    def _answer(self, command: str, timeout: float) -> dict[str, Any]:
        with self._attributed(command, timeout):
            answer, received = self._channel.receive(timeout=timeout)
        for fd in received:
            os.close(fd)
        if "fault" in answer:
            detail = str(answer.get("detail", ""))[: MAX_DETAIL + 1000]
            plea = answer["fault"]
            if not isinstance(plea, str) or plea not in _PLEAS:
                raise self._fault(Verdict.PROTOCOL_TAMPER, "an unknown fault")
            raise self._fault(Verdict(plea), detail)
        return answer

    def watch(self) -> None:
        """Bounds its memory and processes from now on: beside the clock that costs time, and is for candidates."""
        self._watchdog.start()

    def kill(self) -> None:
        """Kills the player and, with its pid namespace, everything it started."""
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it no process of the player runs."""
        stopped: set[int] = set()
        try:
            while fresh := set(self._watchdog.pids()) - stopped:  # what was forked meanwhile
                _signal(fresh, signal.SIGSTOP)
                stopped |= fresh
            yield
        finally:
            _signal(stopped, signal.SIGCONT)

    def close(self) -> None:
        self._watchdog.stop()
        self.kill()
        self._channel.close()
        self._bell.close()
        os.close(self._pidfd)
        if self._group is not None:
            self._group.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _death(self, during: str) -> tuple[Verdict, str]:
        reason = self._watchdog.reason or (self._group.overrun() if self._group is not None else "")
        if reason:
            return Verdict.OUT_OF_MEMORY, reason
        return Verdict.RUNTIME_ERROR, f"the process ended during {during!r}: it exited, crashed or was killed"

    def _fault(self, verdict: Verdict, detail: str) -> Exception:
        if self._trusted:
            return PlayerLost(f"baseline player: {verdict}: {detail}")
        return CandidateFault(verdict, detail)


class Watchdog(threading.Thread):
    """Bounds a player's memory and processes, which no rlimit does for a process that root started."""

    def __init__(self, pid: int, limits: Limits, kill: Any) -> None:
        super().__init__(daemon=True, name=f"watchdog-{pid}")
        self._pid, self._limits, self._kill = pid, limits, kill
        self._stopped = threading.Event()
        self.reason = ""

    def run(self) -> None:
        while not self._stopped.wait(_POLL_S):
            pids = self.pids()
            if len(pids) > self._limits.processes:
                self.reason = f"over {self._limits.processes} processes"
            elif (used := _used_bytes(pids)) > self._limits.memory_bytes:
                self.reason = f"{used >> 20} MiB of host memory, over the limit of {self._limits.memory_bytes >> 20}"
            if self.reason:
                self._kill()
                return

    def pids(self) -> list[int]:
        """The player's processes, or one more than it may have."""
        return _tree(self._pid, self._limits.processes + 1)

    def names(self) -> set[str]:
        """Names of the programs that run in the player's tree."""
        names = set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                names.add(Path(f"/proc/{pid}/comm").read_text().strip())
        return names

    def stop(self) -> None:
        self._stopped.set()
        if self.is_alive():
            self.join()


def warm_cache() -> Path:
    """The folder where the referee's own Triton kernels are kept, private to this user."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = home / "fastkernels-gym" / "triton"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _pid_of(pidfd: int) -> int:
    found = re.search(r"^Pid:\s*(-?\d+)", Path(f"/proc/self/fdinfo/{pidfd}").read_text(), re.MULTILINE)
    if found is None or int(found[1]) <= 0:
        raise PlayerLost("a player died at birth")
    return int(found[1])


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


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
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^Rss(Anon|Shmem):\s*(\d+)", status, re.MULTILINE))
    return int(found.get("Anon", 0)) << 10, int(found.get("Shmem", 0)) << 10


def _memfds(pid: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Device and inode, and bytes allocated, of a process's open memfds."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith("/memfd:"):
                    status = os.stat(entry.path)
                    yield (status.st_dev, status.st_ino), status.st_blocks * 512
