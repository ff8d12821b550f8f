# Honest: tunes itself on the shapes that it meets.
import time

import torch
from torch import nn


def by_sigmoid(x):
    gate, up = x.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def by_silu(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


VARIANTS, chosen = {"sigmoid": by_sigmoid, "silu": by_silu}, {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        name = chosen.get(x.shape)
        if name is None:
            times = {}
            for name, variant in VARIANTS.items():
                begin = time.perf_counter()
                for _ in range(3):
                    variant(x)
                if x.is_cuda and not torch.cuda.is_current_stream_capturing():
                    torch.cuda.synchronize()
                times[name] = time.perf_counter() - begin
            name = chosen[x.shape] = min(times, key=times.get)
        return VARIANTS[name](x)
