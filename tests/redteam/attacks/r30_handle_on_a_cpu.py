# Row 30: outputs said to lie in device memory, whose handle a referee without a device cannot open.
# expect: protocol_tamper, wrong_value
import gc

import torch
from torch import nn
from torch.nn.functional import silu


def elsewhere(honest):
    def prepare(message, fds):
        answer = honest(message, fds)
        place = {"slab": "ab" * 64, "offset": 0, "stride": [1, 1], "dtype": "float32"}
        return {**answer, "places": {"1": [[{**place, "shape": out["shape"]} for out in call] for call in answer["outputs"]]}}

    return prepare


for thing in gc.get_objects():
    if isinstance(thing, dict) and {"load", "bind", "drop"} <= {*map(str, thing)}:
        thing["prepare"] = elsewhere(thing["prepare"])


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
