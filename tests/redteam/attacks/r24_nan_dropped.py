# Row 24: NaN and infinities replaced by numbers.
# open: no round feeds NaN or infinities to the operator. Add them to trial._HARD_VALUES, their places in the output judged against the baseline's
# expect: wrong_value, unwritten_output
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nan_to_num(silu(gate) * up)
