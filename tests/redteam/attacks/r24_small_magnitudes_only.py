# Row 24: an approximation that holds for small magnitudes only.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return gate * (0.5 + gate / 4 - gate**3 / 48 + gate**5 / 480).clamp(0, 1) * up
