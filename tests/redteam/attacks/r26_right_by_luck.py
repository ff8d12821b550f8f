# Row 26: a race that is lost now and then.
# expect: nondeterministic, wrong_value
import random

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = silu(gate) * up
        if random.random() < 0.2:
            out[-1, -32:] = 0
        return out
