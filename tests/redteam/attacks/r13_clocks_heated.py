# Row 13: the device is heated before anything is timed, in the hope that the baseline's turns are the throttled ones.
# expect: ok
import os
import time

import torch
from torch import nn
from torch.nn.functional import silu

SECONDS = 1.0


def heat(device):
    a = torch.ones(2048, 2048, device=device)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()


if os.fork() == 0:  # other cores, while this process is looked at
    heat("cpu")
    os._exit(0)
heat("cuda" if torch.cuda.is_available() else "cpu")


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        # Three times: once would honestly be faster than the baseline, which looks for its implementation first.
        return [silu(gate) * up for _ in range(3)][-1]
