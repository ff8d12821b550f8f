# Row 13: the L2 cache set aside for persisting lines, in the hope that the baseline lacks it.
# device: cuda
# expect: ok
import ctypes

import torch
from torch import nn
from torch.nn.functional import silu

torch.cuda.init()
torch.empty(1, device="cuda")
driver = ctypes.CDLL("libcuda.so.1")
driver.cuCtxSetLimit(6, ctypes.c_size_t(1 << 30))  # CU_LIMIT_PERSISTING_L2_CACHE_SIZE


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
