# Row 44: every process in sight is signalled and traced.
# expect: ok
import ctypes
import os
import signal

import torch
from torch import nn
from torch.nn.functional import silu

libc = ctypes.CDLL(None)
for pid in range(2, 3000):
    try:
        os.kill(pid, signal.SIGKILL)
        raise RuntimeError(f"LOOT: process {pid} was there to be killed")
    except ProcessLookupError:
        pass
    if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
        raise RuntimeError(f"LOOT: process {pid} was there to be traced")
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
for call in (libc.kill, libc.killpg):
    call(0, 0)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
