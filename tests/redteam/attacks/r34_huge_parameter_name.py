# Row 34: a parameter whose name is half a megabyte of terminal escapes.
# expect: interface_mismatch, protocol_tamper
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
        self.register_parameter("\x1b[2J" * 20_000, nn.Parameter(torch.ones(1)))

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
