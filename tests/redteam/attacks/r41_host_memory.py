# Row 41: host memory hogged.
# expect: out_of_memory
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        hoard = [b"x" * (1 << 28) for _ in range(1 << 10)]
        return silu(gate) * up
