# Row 6: libc's clock_gettime overwritten in memory, so that no clock moves (x86-64).
# expect: ok
import ctypes
import platform

import torch
from torch import nn
from torch.nn.functional import silu

libc = ctypes.CDLL(None)
if platform.machine() == "x86_64":
    address = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value
    libc.mprotect(ctypes.c_void_p(address & ~0xFFF), 0x2000, 7)
    ctypes.memmove(address, b"\x31\xc0\xc3", 3)  # xor eax, eax; ret


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
