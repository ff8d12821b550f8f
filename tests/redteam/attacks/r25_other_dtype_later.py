# Row 25: another dtype and other strides after the first round.
# expect: ok, wrong_dtype, wrong_shape, protocol_tamper
import torch
from torch import nn
from torch.nn.functional import silu

calls = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        calls.append(1)
        for _ in range(3):
            out = silu(gate) * up
        return out if len(calls) < 40 else out.double().T.contiguous().T
