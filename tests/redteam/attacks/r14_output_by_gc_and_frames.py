# Row 14: the reference's output looked for in frames and among all live objects.
# expect: wrong_value, unwritten_output
import gc
import sys

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for thing in gc.get_objects() + [v for f in sys._current_frames().values() for v in f.f_locals.values()]:
            if isinstance(thing, torch.Tensor) and thing.shape == gate.shape and thing.dtype == x.dtype:
                return thing.clone()
        return torch.zeros_like(gate)
