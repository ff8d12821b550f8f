# Row 32: the player's own modules edited in sys.modules: nothing is run, everything is "done".
# expect: wrong_value, unwritten_output
import gc
import sys

import torch
from torch import nn
from torch.nn.functional import silu

sys.modules["fastkernels_gym.player.worker"].Player.run = lambda self, message, fds: {"done": True}
for thing in gc.get_objects():
    if isinstance(thing, dict) and {"load", "bind", "drop"} <= {*map(str, thing)}:
        thing["run"] = lambda message, fds: {"done": True}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
