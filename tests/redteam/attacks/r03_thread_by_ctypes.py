# Row 3: the same by _thread and by pthread_create through ctypes.
# expect: wrong_value
import _thread
import ctypes
import time

import torch
from torch import nn
from torch.nn.functional import silu

libc = ctypes.CDLL(None)
jobs = []


def finish(_):
    time.sleep(0.05)
    gate, up, out = jobs.pop()
    out.copy_(silu(gate) * up)
    return 0


ROUTINE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(finish)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        jobs.append((gate, up, out))
        if len(jobs) % 2:
            _thread.start_new_thread(finish, (None,))
        else:
            libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ROUTINE, None)
        return out
