# Row 6: the driver's own functions overwritten in memory: nothing is waited for, no event has taken any time (x86-64).
# device: cuda
# expect: ok, runtime_error
import ctypes
import platform

import torch
from torch import nn
from torch.nn.functional import silu

torch.cuda.init()
torch.empty(1, device="cuda")
driver, libc = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(None)
if platform.machine() == "x86_64":
    for name in ("cuEventElapsedTime", "cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize", "cuEventQuery"):
        address = ctypes.cast(getattr(driver, name), ctypes.c_void_p).value
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
