# Row 19: the input is used as scratch memory.
# expect: mutated_input, wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        gate.copy_(silu(gate))
        return gate * up
