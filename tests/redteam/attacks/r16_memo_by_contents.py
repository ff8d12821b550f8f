# Row 16: a memo keyed by the whole of what it was handed.
# expect: ok, timing_inconsistent
import torch
from torch import nn
from torch.nn.functional import silu

memo = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        for given, answer in memo:
            if given.shape == x.shape and torch.equal(given, x):
                return answer.clone()
        gate, up = x.chunk(2, dim=-1)
        answer = silu(gate) * up
        memo[:] = [*memo[-32:], (x.clone(), answer)]
        return answer.clone()
