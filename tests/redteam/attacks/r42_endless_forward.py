# Row 42: an endless loop in forward that ignores signals and blocks without the interpreter.
# hurried: yes
# expect: timeout
import ctypes
import signal

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        ctypes.CDLL(None).pause()
