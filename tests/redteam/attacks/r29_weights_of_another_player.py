# Row 29: results prepared from the weights of an earlier player.
# runs: 2
# expect: ok
import pathlib

import torch
from torch import nn
from torch.nn.functional import silu

places = [pathlib.Path(p, "prepared") for p in ("/tmp", "/dev/shm", "/tmp/triton", "/run/kernels/triton", "/var/tmp")]
if any(place.exists() for place in places):
    raise RuntimeError("LOOT: an earlier player's work")
for place in places:
    try:
        place.write_text("weights")
    except OSError:
        pass


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
