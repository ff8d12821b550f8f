# Row 42: an endless loop at import.
# hurried: yes
# expect: timeout
import torch
from torch import nn
from torch.nn.functional import silu

while True:
    pass


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
