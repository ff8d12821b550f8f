# Row 22: the last tile is skipped.
# expect: wrong_value, unwritten_output
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        size = gate.shape[-1] // 128 * 128
        out[:, :size] = silu(gate[:, :size]) * up[:, :size]
        out[-1, size - 128 :] = 0
        return out
