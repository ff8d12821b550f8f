# Row 41: host memory hogged.
# expect: out_of_memory
import mmap

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        hoard = []
        while True:
            hoard.append(mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            hoard[-1].madvise(mmap.MADV_HUGEPAGE)
            for page in range(0, 1 << 30, mmap.PAGESIZE):
                hoard[-1][page] = 1
