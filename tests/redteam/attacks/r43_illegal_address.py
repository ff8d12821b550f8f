# Row 43: an illegal address on the device.
# device: cuda
# expect: device_fault, runtime_error
import triton
import triton.language as tl

import torch
from torch import nn
from torch.nn.functional import silu

@triton.jit
def scribble(pointer):
    tl.store(pointer + (tl.program_id(0).to(tl.int64) << 40), 1.0)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        scribble[(1 << 16,)](x)
        return silu(gate) * up
