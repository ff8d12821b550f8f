# Row 41: device memory hogged.
# device: cuda
# expect: out_of_memory, runtime_error, device_fault
import torch
from torch import nn
from torch.nn.functional import silu

hoard = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        while True:
            hoard.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))
