# Row 23: float16 in the dark.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return (silu(gate.half()) * up.half()).float()
