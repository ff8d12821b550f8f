# Honest: writes the arguments that it is given to keep.
# task: L1/rms_norm
import torch
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6, var_hidden_size=None, has_weight=True, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype), requires_grad=False)

    def forward(self, x, residual=None):
        wide = torch.promote_types(x.dtype, torch.float32)
        if residual is not None:
            residual.add_(x)
            x.copy_(residual)
        scale = torch.rsqrt(x.to(wide).square().mean(-1, keepdim=True) + self.eps)
        x.copy_(x.to(wide) * scale)
        x.mul_(self.weight)
        return x if residual is None else (x, residual)
