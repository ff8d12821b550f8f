# Row 46: no class.
# expect: interface_mismatch
import torch


def silu_and_mul(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
