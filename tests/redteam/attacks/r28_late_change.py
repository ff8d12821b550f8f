# Row 28: the output changes late: by __del__, atexit and a thread.
# expect: wrong_value
import atexit
import threading

import torch
from torch import nn
from torch.nn.functional import silu

class Late:
    def __del__(self):
        self.work()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = torch.zeros_like(gate)
        late = Late()
        late.work = lambda: out.copy_(silu(gate) * up)
        atexit.register(late.work)
        threading.Timer(0.05, late.work).start()
        self.late = late
        return out
