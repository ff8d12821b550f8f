# Row 34: an exception whose message and traceback raise, whose class name is an escape sequence.
# expect: runtime_error
import torch
from torch import nn
from torch.nn.functional import silu

class Hostile(Exception):
    def __str__(self):
        raise KeyboardInterrupt

    __repr__ = __str__


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        raise type("\x1b[2JError", (Hostile,), {})()
