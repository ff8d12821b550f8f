"""A player's own cgroup, where the host set one aside; elsewhere the layer is missing, and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastkernels_gym.player import cgroup, headers
from fastkernels_gym.player.sandbox import probe

HOG = "input(); hoard = [bytearray(1 << 24) for _ in range(64)]"
BOMB = """
import os, time
input()
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
except BlockingIOError:
    print("refused", flush=True)
time.sleep(60)
"""


def groups() -> Path | None:
    try:
        return cgroup.find()
    except OSError:
        return None


set_aside = pytest.mark.skipif(groups() is None, reason="the host sets no cgroup aside")


def start(program: str, group: cgroup.Group) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    group.admit(process.pid)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process


@set_aside
def test_the_kernel_ends_what_uses_too_much_memory() -> None:
    parent = groups()
    assert parent is not None
    group = cgroup.Group.create(parent, memory_bytes=200 << 20, tasks=50)
    with start(HOG, group) as process:
        assert process.wait(60) == -9
    assert group.overrun().startswith("over 200 MiB")
    group.remove()
    assert not group.path.exists()


@set_aside
def test_a_fork_bomb_is_refused_and_removed_whole() -> None:
    parent = groups()
    assert parent is not None
    group = cgroup.Group.create(parent, memory_bytes=200 << 20, tasks=50)
    with start(BOMB, group) as process:
        assert process.stdout is not None and process.stdout.readline() == "refused\n"
        group.remove()
        assert process.wait(10) == -9
    assert not group.path.exists()


def test_the_doctor_says_what_would_give_a_cgroup() -> None:
    (layer,) = [layer for layer in probe() if layer.name == "cgroup"]
    assert layer.present == (groups() is not None) and not layer.required
    assert layer.present or (layer.reason and "cgroup" in layer.fix)


def test_compiled_headers_are_found_by_what_they_depend_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert headers.compiled() is None
