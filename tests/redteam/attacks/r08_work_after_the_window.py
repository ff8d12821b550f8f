# Row 8: the work of a call is done during the next one.
# expect: wrong_value, unwritten_output
import torch
from torch import nn
from torch.nn.functional import silu

late = []


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        while late:
            late.pop()()
        out = torch.zeros_like(gate)
        late.append(lambda: out.copy_(silu(gate) * up))
        return out
