"""Evaluators of different processes take turns on a device."""

import signal
import subprocess
import sys
from pathlib import Path

from fastkernels_gym.referee.device_slot import DeviceSlot

PROGRAM = """
import sys
from pathlib import Path
from fastkernels_gym.referee.device_slot import DeviceSlot

with DeviceSlot("GPU-of-a-test", Path(sys.argv[1]), patience_s=0.0).held():
    print("held", flush=True)
    sys.stdin.readline()
"""


def evaluator(folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], text=True, **pipes)


def test_a_second_process_says_that_it_waits_and_goes_on_when_the_first_is_done(tmp_path):
    first = evaluator(tmp_path)
    assert first.stdout.readline() == "held\n"
    second = evaluator(tmp_path)
    assert second.stderr.readline() == "waiting: another evaluator judges on GPU-of-a-test\n"
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
