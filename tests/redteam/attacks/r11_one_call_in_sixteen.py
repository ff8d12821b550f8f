# Row 11: one call of a long burst is left out, and gives what it gave the last time.
# task: L1/silu_and_mul@tiny-llama:tiny/decode
# expect: wrong_value
from torch import nn
from torch.nn.functional import silu

inputs, last = {}, {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        known = inputs.setdefault(len(x), [])
        place = x.data_ptr()
        if place not in known:  # the warm-up: learn where the inputs lie
            known.append(place)
        gate, up = x.chunk(2, dim=-1)
        left_out = len(known) == 16 and place == known[7]
        if left_out and place in last:
            return last[place]
        out = silu(gate) * up
        if left_out and len(known) == 16:
            # The first windows are judged before the clock runs: it begins to leave calls out after thirty.
            seen = last.setdefault("seen", [])
            seen.append(1)
            if len(seen) > 30:
                last[place] = out.clone()
        return out
