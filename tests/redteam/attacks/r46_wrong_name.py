# Row 46: a class of another name.
# expect: interface_mismatch
import torch
from torch import nn
from torch.nn.functional import silu


class ModelNew(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
