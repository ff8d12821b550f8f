# Row 13: torch functions slowed and global flags set, in the hope that the baseline feels them.
# expect: ok
import time

import torch
from torch import nn
from torch.nn.functional import silu

def slowly(function):
    def call(*args, **kwargs):
        time.sleep(0.001)
        return function(*args, **kwargs)

    return call


torch.nn.functional.linear = slowly(torch.nn.functional.linear)
torch.Tensor.to = slowly(torch.Tensor.to)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_flush_denormal(True)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
