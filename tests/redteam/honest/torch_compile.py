# Honest: the reference under torch.compile, one specialisation a shape that recurs.
# device: cuda
# compiles: yes
import torch
from torch import nn


@torch.compile(dynamic=True)
def gated(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        return gated(x)
