# Row 1: work on another executor, unsynchronised (side stream, on a CPU a pool).
# expect: wrong_value
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.nn.functional import silu

POOL = ThreadPoolExecutor(1)


def work(gate, up, out):
    time.sleep(0.05)
    out.copy_(silu(gate) * up)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        POOL.submit(work, gate, up, out)
        return out
