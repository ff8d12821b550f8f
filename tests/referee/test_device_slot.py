"""Evaluators of different processes take turns on a device."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastkernels_gym.errors import HarnessFault
from fastkernels_gym.referee.device_slot import DeviceSlot

PROGRAM = """
import sys
from pathlib import Path
from fastkernels_gym.referee.device_slot import DeviceSlot

with DeviceSlot("GPU-of-a-test", Path(sys.argv[1]), patience_s=0.0).held():
    print("held", flush=True)
    sys.stdin.readline()
"""
WAITING = "waiting: another evaluator judges on GPU-of-a-test\n"


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(folder)]


def evaluator(folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command(folder), text=True, **pipes)


def lock_file(folder: Path) -> Path:
    return folder / "fastkernels-gym-GPU-of-a-test.lock"


@contextmanager
def no_superuser() -> Iterator[None]:
    """Root reads every file; within it nobody is root."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
    except OSError as error:  # a namespace of one user
        pytest.skip(f"root reads every file, and cannot be another user: {error}")
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_second_process_says_that_it_waits_and_goes_on_when_the_first_is_done(tmp_path):
    first = evaluator(tmp_path)
    assert first.stdout.readline() == "held\n"
    second = evaluator(tmp_path)
    assert second.stdout.readline() == WAITING
    assert second.poll() is None
    first.communicate("\n")
    assert second.communicate("\n")[0] == "held\n"


def test_who_is_killed_lets_go_of_the_device(tmp_path):
    first = evaluator(tmp_path)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with DeviceSlot("GPU-of-a-test", tmp_path).held() as waited_s:
        assert waited_s >= 0.0


def test_devices_do_not_wait_for_each_other(tmp_path):
    with DeviceSlot("one", tmp_path).held(), DeviceSlot("other", tmp_path).held():
        pass


def test_who_waited_for_a_file_that_was_removed_and_who_came_later_take_turns(tmp_path):
    first = evaluator(tmp_path)
    assert first.stdout.readline() == "held\n"
    before = evaluator(tmp_path)
    assert before.stdout.readline() == WAITING
    lock_file(tmp_path).unlink()
    after = evaluator(tmp_path)
    assert after.stdout.readline() == "held\n"
    first.communicate("\n")
    assert before.stdout.readline() == WAITING  # the removed file's lock is no right to the device
    after.communicate("\n")
    assert before.communicate("\n")[0] == "held\n"


def link(path: Path) -> None:
    path.with_name("target").touch()
    path.symlink_to("target")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(os.mkfifo, "not a regular file"), (link, "symbolic links"), (Path.mkdir, "directory")],
    ids=["fifo", "symlink", "directory"],
)
def test_what_is_no_regular_file_is_a_fault_that_says_what_to_do(tmp_path, make, reason):
    path = lock_file(tmp_path)
    make(path)
    done = subprocess.run(command(tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"fastkernels_gym.errors.HarnessFault: cannot lock {path}: ")
    assert reason in said
    assert "remove it, or set TMPDIR to a folder that all users of this GPU share" in said
    assert done.stdout == ""


def test_an_unreadable_file_is_a_fault_that_says_what_to_do():
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        lock_file(folder).touch()
        lock_file(folder).chmod(0o000)
        with no_superuser(), pytest.raises(HarnessFault, match=f"{lock_file(folder)}: Permission denied.*set TMPDIR"):
            with DeviceSlot("GPU-of-a-test", folder).held():
                pass


def test_other_users_can_read_the_file_whatever_the_umask(tmp_path):
    subprocess.run(command(tmp_path), stdin=subprocess.DEVNULL, check=True, umask=0o077)
    assert stat.S_IMODE(lock_file(tmp_path).stat().st_mode) == 0o644
