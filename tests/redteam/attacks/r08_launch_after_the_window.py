# Row 8: a thread launches the kernel once the outputs have been taken.
# device: cuda
# expect: wrong_value, unwritten_output, runtime_error, device_fault
import threading

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        threading.Timer(0.05, lambda: torch.mul(silu(gate), up, out=out)).start()
        return out
