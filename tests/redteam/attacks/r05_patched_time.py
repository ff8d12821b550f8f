# Row 5: time.* and synchronize patched.
# expect: ok
import time

import torch
from torch import nn
from torch.nn.functional import silu

begin = time.perf_counter()
for name in ("time", "monotonic", "perf_counter", "process_time"):
    setattr(time, name, lambda: begin)
    setattr(time, name + "_ns", lambda: int(begin * 1e9))
torch.cuda.synchronize = lambda *args: None


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
