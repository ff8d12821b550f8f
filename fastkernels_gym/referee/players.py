"""The referee's end of a player: spawned from a zygote, asked with a deadline, watched, killed with all it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from fastkernels_gym.errors import CandidateFault, PlayerLost, SandboxUnavailable
from fastkernels_gym.player import cgroup, headers
from fastkernels_gym.player.doorbell import Doorbell, awake_until
from fastkernels_gym.player.protocol import MAX_DETAIL, Channel, PeerClosed, ProtocolError
from fastkernels_gym.player.sandbox import COMPILERS, INTERPRETER, Limits, command, readable
from fastkernels_gym.referee.watchdog import Watchdog
from fastkernels_gym.results import Verdict

START_TIMEOUT_S = 180.0
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
    """The sandboxed process that forks players. It takes seconds to start, which is waited for at the first player.

    Args:
        device: `cpu`, or `cuda:<number>` by the number of the device's file.
        sandboxed: False runs players as plain processes of this user, for machines without namespaces.
    """

    def __init__(self, device: str, *, sandboxed: bool = True) -> None:
        ours, theirs = socket.socketpair()
        # Players get an empty /tmp of their own, but for what the interpreter needs there.
        kept = [str(path) for path in readable() if Path("/tmp") in path.parents]
        mode, capability = "nested" if sandboxed else "flat", _capability(device)
        program = [INTERPRETER, "-P", "-m", "fastkernels_gym.player.zygote", str(theirs.fileno()), mode, capability]
        program += kept if sandboxed else []
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
        self._control, self._started = Channel(ours), False
        self._groups: Path | None = None
        with contextlib.suppress(OSError):  # the layer is missing, and the evaluation says so
            self._groups = cgroup.find() if sandboxed else None

    def _await_start(self) -> None:
        """Until it can fork.

        Raises:
            SandboxUnavailable: if it does not come up.
        """
        if self._started:
            return
        try:
            self._control.receive(timeout=START_TIMEOUT_S)
        except (PeerClosed, TimeoutError) as error:
            raise SandboxUnavailable(f"no player could be started: {self._last_words()}") from error
        self._started = True

    def spawn(self, limits: Limits, *, threads: int, trusted: bool) -> Player:
        """A fresh player.

        Raises:
            SandboxUnavailable: if the zygote does not come up.
            PlayerLost: if it is gone or the fork failed.
        """
        self._await_start()
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
        self._control.close()
        if self._scratch:
            self._scratch.cleanup()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class Handover:
    """A window on the device: the player's work stands in its stream and waits.

    Args:
        bell: the player's.
        window: its number.
        answered: whether the player has something to say, or is gone.
        deadline: of `time.monotonic`.
    """

    bell: Doorbell
    window: int
    answered: Callable[[], bool]
    deadline: float

    def enqueue(self) -> None:
        """In the current stream of the referee: the player's work."""
        self.bell.hand_over(self.window)

    def watch(self) -> None:
        """Goes on without a player that failed or takes too long: what it did not compute is not there."""
        late = time.monotonic() > self.deadline
        if (late or self.answered()) and not self.bell.handed_back(self.window):
            self.bell.take_back(self.window)


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
        window, command, heard = self._next_window(), message["op"], False

        def wait_for(rung: Callable[[int], bool], awake_s: float) -> dict[str, Any]:
            nonlocal heard
            if not heard:
                heard = self._heard_instead(rung, window, command, timeout, awake_s)
            return {}

        def ring() -> Hear:
            self._bell.go(window)
            return partial(wait_for, self._bell.done, _AWAKE_S)

        self.begin({**message, "window": window, "on_device": False}, timeout=timeout)
        wait_for(self._bell.armed, timeout)
        yield ring
        if not heard:
            self._answer(command, timeout)

    @contextlib.contextmanager
    def enqueued(self, message: Mapping[str, Any], *, timeout: float) -> Iterator[Handover]:
        """Has the player enqueue a command's work on the device, and gives what lets it go.

        The answer is waited for at the end. Raises as `ask` does.

        Args:
            message: the command.
            timeout: seconds for each step.
        """
        window, command = self._next_window(), message["op"]
        self.begin({**message, "window": window, "on_device": True}, timeout=timeout)
        heard = self._heard_instead(self._bell.armed, window, command, timeout, timeout)
        deadline = 0.0 if heard else time.monotonic() + timeout
        try:
            yield Handover(self._bell, window, self._channel.pending, deadline)
        finally:  # whatever went wrong in the referee, its stream must not wait for ever
            self._bell.take_back(window)
        if not heard:
            self._answer(command, timeout)

    def _next_window(self) -> int:
        self._windows += 1
        return self._windows

    def _heard_instead(
        self, rung: Callable[[int], bool], window: int, command: str, timeout: float, awake_s: float
    ) -> bool:
        """Waits for a ring; whether its answer came instead: it pleads, it is gone, or it takes long."""
        awake_until(lambda: rung(window) or self._channel.pending(), awake_s)
        if rung(window):
            return False
        self._answer(command, timeout)
        return True

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
        if self._watchdog.overrun is not None:
            return self._watchdog.overrun
        if self._group is not None and (reason := self._group.overrun()):
            return Verdict.OUT_OF_MEMORY, reason
        return Verdict.RUNTIME_ERROR, f"the process ended during {during!r}: it exited, crashed or was killed"

    def _fault(self, verdict: Verdict, detail: str) -> Exception:
        if self._trusted:
            return PlayerLost(f"baseline player: {verdict}: {detail}")
        return CandidateFault(verdict, detail)


def _capability(device: str) -> str:
    """The GPU's, as in `90`; 0 for none."""
    if device == "cpu":
        return "0"
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


def warm_cache() -> Path:
    """The folder where what the referee compiles is kept, a folder for each compiler, private to this user."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = home / "fastkernels-gym" / "kernels"
    for name in COMPILERS:
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
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
