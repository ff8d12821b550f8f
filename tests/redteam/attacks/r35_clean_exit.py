# Row 35: a clean exit as soon as the clock runs, to be scored as the baseline.
# expect: nondeterministic, runtime_error
import os

import torch
from torch import nn
from torch.nn.functional import silu

calls = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        calls.append(1)
        if len(calls) > 150:
            os._exit(0)
        return silu(gate) * up
