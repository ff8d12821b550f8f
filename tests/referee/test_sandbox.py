"""What a candidate can reach from inside the real sandbox: its own processes, its /tmp and its /dev/shm."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import fastkernels_gym as fk
from fastkernels_gym.player import seccomp
from fastkernels_gym.player.first_uses import compile_once
from fastkernels_gym.referee.players import warm_cache
from fastkernels_gym.results import Verdict

TASK = "L1/silu_and_mul@tiny-llama"
CANDIDATE = """
import ctypes, errno, os, socket, subprocess, sys
import torch
from torch import nn

libc = ctypes.CDLL(None, use_errno=True)
found = []

{attack}

if found:
    raise RuntimeError(repr(found))

class SiluAndMul(nn.Module):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up
"""
SYSTEM_CALLS = """
for name, number in NUMBERS.items():
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
        found.append((name, ctypes.get_errno()))
for flag in (0x00020000, 0x10000000, 0x20000000, 0x40000000):
    ctypes.set_errno(0)
    child = libc.syscall(CLONE, flag | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child != -1 or ctypes.get_errno() != errno.EPERM:
        found.append(("clone", hex(flag)))
for family in ("AF_VSOCK", "AF_PACKET", "AF_ALG"):
    try:
        socket.socket(getattr(socket, family), socket.SOCK_STREAM)
        found.append(family)
    except OSError as error:
        if error.errno != errno.EPERM:
            found.append((family, error.errno))
"""
WRITES = """
places = {line.split()[4] for line in open("/proc/self/mountinfo")} | {"/etc", "/run", "/usr", os.path.expanduser("~")}
for place in sorted(places - {"/tmp", "/dev/shm"}):
    try:
        open(os.path.join(place, "planted"), "w").close()
        if os.path.realpath(place) != "/tmp":
            found.append(place)
    except OSError:
        pass
try:
    with open("/dev/shm/large", "wb") as file:
        for _ in range(3 << 10):
            file.write(bytes(1 << 20))
    found.append("3 GiB in /dev/shm")
except OSError:
    pass
"""
LEFT_BEHIND = """
for folder in ("/tmp", "/dev/shm", "/tmp/triton", "/tmp/inductor", "/tmp/torch_extensions"):
    try:
        if os.path.exists(os.path.join(folder, "left")):
            found.append(folder)
        os.makedirs(folder, exist_ok=True)
        open(os.path.join(folder, "left"), "w").close()
    except OSError as error:
        found.append((folder, error.errno))
"""
KERNELS = """
import glob
from fastkernels_gym.player.first_uses import compile_once

def compiled():
    return {path: os.stat(path).st_ino for path in glob.glob(os.environ["TRITON_CACHE_DIR"] + "/*/*.cubin")}

lent = compiled()
compile_once(90)
if not lent or compiled() != lent:
    found.append((lent, compiled()))
"""
MEMFDS = """
import time
files = [os.memfd_create(str(n)) for n in range(10)]
for file in files:
    os.posix_fallocate(file, 0, 1 << 30)
time.sleep(60)
"""
TOOLCHAIN = """
with open("scale.c", "w") as file:
    file.write("double twice(double x) { return 2 * x; }")
subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "scale.c", "-o", "scale.so"], check=True)
library = ctypes.CDLL("./scale.so")
library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
assert library.twice(21.0) == 42.0
"""


def judge(evaluator: fk.Evaluator, attack: str) -> fk.Evaluation:
    return evaluator.evaluate(TASK, CANDIDATE.replace("{attack}", attack), measure="op", budget_s=0.3)


@pytest.mark.skipif(bool(seccomp.missing()), reason="no seccomp here")
def test_every_blocked_system_call_is_refused(evaluator: fk.Evaluator) -> None:
    column = ("x86_64", "aarch64").index(platform.machine())
    numbers = {name: pair[column] for name, pair in seccomp.BLOCKED.items() if pair[column] is not None}
    clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    result = judge(evaluator, f"NUMBERS, CLONE = {numbers}, {clone}\n{SYSTEM_CALLS}")
    assert result.verdict is Verdict.OK, result.feedback
    assert "seccomp" in result.sandbox


def test_nothing_can_be_written_but_a_bounded_tmp(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, WRITES)
    assert result.verdict is Verdict.OK, result.feedback


def test_the_next_player_finds_nothing_of_the_last_one(evaluator: fk.Evaluator) -> None:
    for _ in range(2):
        result = judge(evaluator, LEFT_BEHIND)
        assert result.verdict is Verdict.OK, result.feedback


def test_compilers_run_in_the_sandbox(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, TOOLCHAIN)
    assert result.verdict is Verdict.OK, result.feedback


def test_memory_in_files_without_a_name_counts(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, MEMFDS)
    assert result.verdict is Verdict.OUT_OF_MEMORY, result.feedback
    assert judge(evaluator, "").verdict is Verdict.OK


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_is_well_formed(machine: str) -> None:
    """The kernel's own rules: at most 4096 instructions, jumps forward and inside, a return at the end."""
    body = seccomp.program(machine)
    instructions = [body[i : i + 8] for i in range(0, len(body), 8)]
    assert len(body) % 8 == 0 and len(instructions) <= 4096
    for index, (low, high, yes, no) in enumerate(instruction[:4] for instruction in instructions):
        if (low | high << 8) & 7 == 5:
            assert index + 1 + max(yes, no) < len(instructions)
    assert instructions[-1][0] == 0x06


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_a_player_finds_what_the_referee_has_compiled(evaluator: fk.Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(warm_cache() / "triton"))  # as in the referee's process
    compile_once(90)
    assert judge(evaluator, KERNELS).verdict is Verdict.OK


def test_an_interpreter_that_was_called_by_a_relative_path_is_found(tmp_path: Path) -> None:
    code = (
        "import subprocess; from pathlib import Path; from fastkernels_gym.player.sandbox import INTERPRETER, command;"
        "program = [INTERPRETER, '-c', ''];"
        "subprocess.run(command(program, device='cpu', cache=Path('.'), compiled=None), check=True)"
    )
    interpreter = os.path.relpath(sys.executable, tmp_path)
    subprocess.run([interpreter, "-c", code], cwd=tmp_path, check=True, timeout=60)
