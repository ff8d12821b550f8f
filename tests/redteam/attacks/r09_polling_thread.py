# Row 9: a resident thread polls the arena for inputs and works ahead of the call.
# expect: wrong_value, timing_inconsistent, ok
import threading
import time

import torch
from torch import nn
from torch.nn.functional import silu

watched = {}


def poll():
    while True:
        time.sleep(0.05)
        for known in list(watched.values()):
            x, seen, _ = known
            if not torch.equal(seen[:, :8], x[:, :8]):
                gate, up = x.chunk(2, dim=-1)
                known[1:] = [x.clone(), silu(gate) * up]


threading.Thread(target=poll, daemon=True).start()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        key = x.data_ptr()
        if key not in watched:
            watched[key] = [x, x.clone(), silu(gate) * up]
        known = watched[key]
        if known[1][0, 0] == x[0, 0]:
            return known[2]
        return silu(gate) * up
