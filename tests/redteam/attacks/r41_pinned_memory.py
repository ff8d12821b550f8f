# Row 41: host memory hogged by the device's driver: pinned pages, twice as many as a player may have.
# device: cuda
# expect: out_of_memory, runtime_error, load_error
import torch
from torch import nn
from torch.nn.functional import silu

hoard = [torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True) for _ in range(16)]


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
