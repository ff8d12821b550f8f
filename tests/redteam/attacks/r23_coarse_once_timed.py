# Row 23: as accurate as it must be while it is judged, off by eight times the baseline's error once it is timed.
# expect: wrong_value, ok
import sys

import torch
from torch import nn
from torch.nn.functional import silu


def length_of_burst():
    frame = sys._getframe()
    while frame and not (frame.f_code.co_name == "run" and "program" in frame.f_locals):
        frame = frame.f_back
    return frame.f_locals["n"] if frame else 0


class SiluAndMul(nn.Module):
    timed = set()

    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = silu(gate) * up
        n = length_of_burst()
        if n == 1:
            self.timed.add(x.shape)
        if x.shape in self.timed:
            out = out * (1 + 3e-7)
        return out
