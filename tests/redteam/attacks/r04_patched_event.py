# Row 4: torch.cuda.Event patched: methods, __code__, a subclass.
# expect: ok
import torch
from torch import nn
from torch.nn.functional import silu

class Event(torch.cuda.Event):
    def elapsed_time(self, other):
        __class__  # a free variable, as the original has
        return 1e-6


def nothing(self, *args, **kwargs):
    pass


torch.cuda.Event.elapsed_time.__code__ = Event.elapsed_time.__code__
torch.cuda.Event.record = torch.cuda.Event.synchronize = nothing
torch.cuda.Event = torch.Event = Event


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
