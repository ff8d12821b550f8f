"""What a player's memory is, however it came by it; with a limit small enough for a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from fastkernels_gym.player.sandbox import Limits
from fastkernels_gym.referee.watchdog import Watchdog
from fastkernels_gym.results import Verdict

HOARDS = {
    "private": "m = bytearray(b'x' * (300 << 20))",
    "shared": "m = mmap.mmap(-1, 300 << 20); m.write(b'x' * (1 << 20) * 300)",
    "without a name": "m = os.memfd_create('m'); os.posix_fallocate(m, 0, 300 << 20)",
}


@pytest.mark.parametrize("kind", HOARDS)
def test_memory_of_every_kind_counts(kind: str) -> None:
    with subprocess.Popen([sys.executable, "-c", f"import mmap, os, time\n{HOARDS[kind]}\ntime.sleep(60)"]) as process:
        watchdog = Watchdog(process.pid, Limits(memory_bytes=256 << 20), process.kill)
        watchdog.start()
        try:
            assert process.wait(50) == -9 and "over the limit of 256" in str(watchdog.overrun)
        finally:
            process.kill()
            watchdog.stop()


def test_a_name_that_is_no_text_hides_nothing() -> None:
    program = (
        f"import mmap, os, time\nopen('/proc/self/comm', 'wb').write(b'\\xff')\n{HOARDS['private']}\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        watchdog = Watchdog(process.pid, Limits(memory_bytes=256 << 20), process.kill)
        watchdog.start()
        try:
            assert process.wait(50) == -9 and "over the limit of 256" in str(watchdog.overrun)
            assert watchdog.names() <= {"", "\ufffd"}
        finally:
            process.kill()
            watchdog.stop()


def test_who_has_more_processes_than_are_looked_at_is_killed_at_the_look() -> None:
    program = "import os, time\nfor _ in range(9):\n    os.fork() or time.sleep(60)\nprint(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, process_group=0) as process:
        watchdog = Watchdog(process.pid, Limits(processes=8), partial(os.killpg, process.pid, signal.SIGKILL))
        assert process.stdout is not None and process.stdout.readline()
        watchdog.pids()
        assert process.wait(50) == -9 and watchdog.overrun == (Verdict.OUT_OF_MEMORY, "over 8 processes")


def test_a_player_that_outlives_its_time_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time\ntime.sleep(60)"]) as process:
        watchdog = Watchdog(process.pid, Limits(lifetime_s=0.5), process.kill)
        watchdog.start()
        assert process.wait(50) == -9 and watchdog.overrun == (Verdict.TIMEOUT, "not judged after 0 s")
        watchdog.stop()
