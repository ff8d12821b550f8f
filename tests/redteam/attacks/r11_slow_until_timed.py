# Row 11: slow while it is judged, so that its bursts are made short, and fast once they are timed.
# task: L1/silu_and_mul@tiny-llama:tiny/prefill
# expect: timing_inconsistent
import time

import torch
from torch import nn
from torch.nn.functional import silu

JUDGED = range(17, 50)  # calls: those of two bursts, after the warm-up
calls = 0


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        global calls
        calls += 1
        if calls in JUDGED:
            time.sleep(0.07)
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
