# Row 16: a memo keyed by address and a small fingerprint of the contents.
# expect: ok, timing_inconsistent, wrong_value
import torch
from torch import nn
from torch.nn.functional import silu

memo = {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        key = (x.data_ptr(), x[0, 0].item(), x[-1, -1].item())
        if key not in memo:
            memo[key] = silu(gate) * up
        return memo[key]
