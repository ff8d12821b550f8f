# Row 16: a thread of the player works calls off as their inputs arrive, before the player is told to run.
# expect: ok, wrong_value, nondeterministic
import sys
import threading
import time

from torch import nn
from torch.nn.functional import silu

sys.setswitchinterval(1e-6)
inputs, done = {}, {}


def compute(x):
    gate, up = x.chunk(2, dim=-1)
    return silu(gate) * up


def watch():
    while True:
        changed = False
        for key, (x, values) in list(inputs.items()):
            if done[key][0] != values[-1]:
                done[key] = (values[-1], compute(x))
                changed = True
        if not changed:
            time.sleep(2e-5)


threading.Thread(target=watch, daemon=True).start()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        key = x.data_ptr()
        if key in done:
            _, values = inputs[key]
            mark, out = done[key]
            return out if mark == values[-1] else compute(x)
        if x.shape[0] == 4:
            done[key] = (None, None)
            inputs[key] = (x, x.numpy().reshape(-1))
        return compute(x)
