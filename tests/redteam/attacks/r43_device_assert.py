# Row 43: a device assert, whose error sticks to the context.
# device: cuda
# expect: device_fault, runtime_error
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        index = torch.full((4,), 1 << 30, device=x.device)
        x[index].sum().item()
        return silu(gate) * up
