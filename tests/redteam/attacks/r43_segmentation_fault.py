# Row 43: an illegal address (on a CPU: a crash).
# expect: runtime_error
import ctypes

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return ctypes.string_at(8)
