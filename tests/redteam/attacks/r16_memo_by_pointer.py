# Row 16: a memo keyed by the input's address.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu

memo = {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        if x.data_ptr() not in memo:
            memo[x.data_ptr()] = silu(gate) * up
        return memo[x.data_ptr()]
