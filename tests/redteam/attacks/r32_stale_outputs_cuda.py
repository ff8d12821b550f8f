# Row 32: the player's run command replaced once it has been judged: the outputs of an earlier window are left to be taken again.
# device: cuda
# expect: wrong_value, unwritten_output, nondeterministic, protocol_tamper
import gc
from collections import Counter

import torch
from torch import nn
from torch.nn.functional import silu

tables = [
    thing for thing in gc.get_objects() if isinstance(thing, dict) and {"load", "bind", "drop"} <= {*map(str, thing)}
]
windows = Counter()


def stale(honest):
    def run(message, fds):
        windows[message["name"], message["n"]] += 1
        if windows[message["name"], message["n"]] <= 12:
            return honest(message, fds)
        return {"done": True}

    return run


for commands in tables:
    if callable(commands.get("run")):
        commands["run"] = stale(commands["run"])


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
