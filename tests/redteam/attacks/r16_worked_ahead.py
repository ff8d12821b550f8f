# Row 16: in bursts of one call, and before, the calls of the long burst are worked off ahead.
# task: L1/silu_and_mul@tiny-llama:tiny/decode
# expect: wrong_value
import sys

from torch import nn
from torch.nn.functional import silu

inputs, done = {}, {}


def length_of_burst():
    frame = sys._getframe()
    while frame and not (frame.f_code.co_name == "run" and "program" in frame.f_locals):
        frame = frame.f_back
    return frame.f_locals["n"] if frame else 0


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        place = x.data_ptr()
        if place in done:
            return done.pop(place)
        calls, known = length_of_burst(), inputs.setdefault(len(x), {})
        if calls == 0:  # the warm-up: learn where the inputs lie
            known[place] = x
        elif calls == 1:
            for other, ahead in known.items():
                if other != place:
                    gate, up = ahead.chunk(2, dim=-1)
                    done[other] = silu(gate) * up
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
