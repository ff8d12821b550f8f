# Row 14: the reference's output hoped for in memory that was just freed.
# expect: wrong_value, unwritten_output
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.empty(gate.shape, dtype=x.dtype, device=x.device)
