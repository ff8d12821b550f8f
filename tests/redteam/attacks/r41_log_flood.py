# Row 41: standard output and error flooded.
# expect: ok
import os

import torch
from torch import nn
from torch.nn.functional import silu

for _ in range(1 << 10):
    print("x" * (1 << 16))
    os.write(2, b"x" * (1 << 16))


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
