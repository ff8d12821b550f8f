# Row 42: an endless loop in the constructor.
# hurried: yes
# expect: timeout
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
        while True:
            pass

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
