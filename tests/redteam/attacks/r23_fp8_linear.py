# Row 23: float8 in the dark, weights converted once.
# task: L1/linear
# device: cuda
# expect: wrong_value
import torch
from torch import nn

SCALE, narrow = 64.0, {}


class Linear(nn.Module):
    def forward(self, x, weight, bias=None):
        if weight.data_ptr() not in narrow:
            narrow[weight.data_ptr()] = (weight * SCALE).to(torch.float8_e4m3fn)
        one = torch.ones((), device=x.device)
        rows = x.reshape(-1, x.shape[-1]).to(torch.float8_e4m3fn)
        out = torch._scaled_mm(
            rows, narrow[weight.data_ptr()].t(), scale_a=one, scale_b=one / SCALE, out_dtype=x.dtype
        )
        out = out.view(*x.shape[:-1], weight.shape[0])
        return out if bias is None else out + bias
