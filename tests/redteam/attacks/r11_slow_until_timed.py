# Row 11: slow while it is judged, so that its bursts are made short, and fast once they are timed.
# expect: timing_inconsistent
import time

import torch
from torch import nn
from torch.nn.functional import silu

JUDGED = 50  # calls
calls = 0


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        global calls
        calls += 1
        if calls < JUDGED:
            time.sleep(0.07)
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
