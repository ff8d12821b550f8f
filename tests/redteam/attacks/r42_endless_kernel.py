# Row 42: a kernel that never ends.
# device: cuda
# hurried: yes
# expect: timeout, device_fault
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        torch.cuda._sleep(1 << 62)
        return silu(gate) * up
