# Row 32: the doorbell's "done" rung as soon as the kernels are launched, the device not waited for.
# device: cuda
# expect: ok, wrong_value, unwritten_output, nondeterministic
import torch
from torch import nn
from torch.nn.functional import silu

from fastkernels_gym.player.worker import Player

Player._synchronize = lambda self: None


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = silu(gate)
        for _ in range(16):
            out = torch.nan_to_num(out)
        return out * up
