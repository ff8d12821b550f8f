# Row 43: a failed assertion in a library (on a CPU: the process aborts).
# expect: runtime_error
import os

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        os.abort()
        return silu(gate) * up
