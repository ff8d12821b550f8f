# Row 46: the class defined twice, once in a compatibility glyph that Python folds.
# expect: load_error
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up


class SiluAndMuｌ(nn.Module):
    pass
