# Row 40: a daemon by double fork, that is to outlive the evaluation.
# expect: runtime_error
import os
import time

import torch
from torch import nn
from torch.nn.functional import silu

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(1)
    os._exit(0)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        raise RuntimeError("and off")
