"""What a player's memory is, however it came by it; with a limit small enough for a test."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastkernels_gym.player.sandbox import Limits
from fastkernels_gym.referee.players import Watchdog

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
            assert process.wait(50) == -9 and "over the limit of 256" in watchdog.reason
        finally:
            process.kill()
            watchdog.stop()
