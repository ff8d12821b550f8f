# Row 40: a fork bomb.
# expect: out_of_memory, load_error, runtime_error
import os
import signal

import torch
from torch import nn
from torch.nn.functional import silu

for _ in range(2000):
    if os.fork() == 0:
        signal.pause()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
