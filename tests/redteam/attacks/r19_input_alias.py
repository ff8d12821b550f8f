# Row 19: a view of the input, written in place, is returned.
# expect: mutated_input, wrong_shape, wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        gate.copy_(silu(gate) * up)
        return gate
