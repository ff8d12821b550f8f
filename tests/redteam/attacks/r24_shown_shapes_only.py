# Row 24: right on the shapes of the observation only.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        if len(x) in (128, 4):
            return silu(gate) * up
        return torch.zeros_like(gate)
