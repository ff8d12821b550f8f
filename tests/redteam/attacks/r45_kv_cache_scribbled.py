# Row 45: the KV cache in the arena overwritten, where there is one: in a pass of the model.
# measure: e2e
# expect: mutated_input, protocol_tamper, wrong_value
import gc

import torch
from torch import nn
from torch.nn.functional import silu

player = next(p for p in gc.get_objects() if type(p).__name__ == "Player")


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for name, slab in player.slabs.items():
            if name.startswith("kv:"):
                slab.bytes.zero_()
        for _ in range(3):
            out = silu(gate) * up
        return out
