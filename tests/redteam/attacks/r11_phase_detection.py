# Row 11: the harness's phase is told by its stack; work is skipped when only the clock is looking.
# expect: wrong_value, unwritten_output, nondeterministic
import sys
import time

import torch
from torch import nn
from torch.nn.functional import silu

began = time.monotonic()


def stack():
    names, frame = [], sys._getframe()
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        if time.monotonic() - began > 0.5 and "run" in stack():
            return torch.zeros_like(gate)
        return silu(gate) * up
