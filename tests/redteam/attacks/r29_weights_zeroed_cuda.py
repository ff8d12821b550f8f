# Row 29: the weights in the arena zeroed, so that all agree.
# device: cuda
# expect: protocol_tamper, wrong_value
import gc

import torch
from torch import nn
from torch.nn.functional import silu

def zero():
    player = next(p for p in gc.get_objects() if type(p).__name__ == "Player")
    player.slabs["weights"].bytes.zero_()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        zero()
        for _ in range(3):
            out = silu(gate) * up
        return out
