# Honest: sums of squares by atomic additions, whose order is anybody's.
# task: L1/rms_norm
# device: cuda
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, squares_ptr, rows, size, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < size)[None]
    x = tl.load(x_ptr + row[:, None] * size + column[None], mask=mask, other=0.0).to(tl.float32)
    tl.atomic_add(squares_ptr + row, tl.sum(x * x, axis=1), mask=row < rows)


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6, var_hidden_size=None, has_weight=True, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype), requires_grad=False)

    def forward(self, x, residual=None):
        size = x.shape[-1]
        rows = x.numel() // size
        x = x.contiguous()
        if residual is not None:
            residual = x = x.add_(residual)
        squares = torch.zeros(rows, dtype=torch.float32, device=x.device)
        kernel[(triton.cdiv(rows, 32), triton.cdiv(size, 128))](x, squares, rows, size, 32, 128)
        scale = torch.rsqrt(squares / size + self.eps).view(*x.shape[:-1], 1)
        out = (x.float() * scale).to(x.dtype) * self.weight
        return out if residual is None else (out, residual)
