# Row 25: another device after the first round.
# expect: nondeterministic, runtime_error, wrong_dtype, protocol_tamper
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
        out = silu(gate) * up
        return out if len(calls) < 40 else out.to("meta")
