# Row 12: own processes keep the cores busy whenever the candidate itself is not running.
# expect: ok, timing_inconsistent
import mmap
import os
import time

import torch
from torch import nn
from torch.nn.functional import silu

flag = mmap.mmap(-1, 4096)
if not flag[1]:
    flag[1] = 1
    for _ in range(4):
        if os.fork() == 0:
            while True:
                seen = flag[0]
                while flag[0] == seen:
                    pass
                time.sleep(0.001)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        flag[0] = (flag[0] + 1) % 256
        # Three times: once would honestly be faster than the baseline, which looks for its implementation first.
        return [silu(gate) * up for _ in range(3)][-1]
