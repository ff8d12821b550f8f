# Row 22: every other row is computed and repeated.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = silu(gate[::2]) * up[::2]
        return out.repeat_interleave(2, dim=0)[: len(x)]
