# Row 29: the weights in the arena zeroed, so that all agree.
# expect: runtime_error, protocol_tamper
import ctypes
import gc

import torch
from torch import nn
from torch.nn.functional import silu

def zero():
    player = next(p for p in gc.get_objects() if type(p).__name__ == "Player")
    weights = player.slabs["weights"].bytes
    libc = ctypes.CDLL(None)
    libc.mprotect(ctypes.c_void_p(weights.data_ptr()), ctypes.c_size_t(weights.numel()), 3)
    weights.zero_()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        zero()
        for _ in range(3):
            out = silu(gate) * up
        return out
