# Row 11: the first calls are honest, later ones are skipped.
# expect: wrong_value, unwritten_output, nondeterministic
import torch
from torch import nn
from torch.nn.functional import silu

CALLS = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
        self.calls = CALLS

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        self.calls.append(1)
        if len(self.calls) > 150:
            return torch.zeros_like(gate)
        return silu(gate) * up
