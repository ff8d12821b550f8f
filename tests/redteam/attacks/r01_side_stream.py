# Row 1: work on a side stream, unsynchronised.
# device: cuda
# expect: ok, wrong_value, unwritten_output, runtime_error, device_fault
import torch
from torch import nn
from torch.nn.functional import silu

SIDE = torch.cuda.Stream()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        with torch.cuda.stream(SIDE):
            for _ in range(4):
                torch.mul(silu(gate), up, out=out)
        return out
