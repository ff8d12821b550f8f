# Honest: Triton, several rows a program, the residual added in place.
# task: L1/rms_norm
# interpret: yes
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, rows, size, eps,
    ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None]
    at, mask = row * size + column, (row < rows) & (column < size)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_ptr + at, x.to(residual_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / size + eps)[:, None]
    weight = tl.load(weight_ptr + column, mask=column < size, other=0.0)
    out = (x * scale).to(weight_ptr.dtype.element_ty) * weight
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6, var_hidden_size=None, has_weight=True, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype), requires_grad=False)

    def forward(self, x, residual=None):
        size = x.shape[-1]
        rows = x.numel() // size
        x = x.contiguous()
        out = torch.empty_like(x)
        block = triton.next_power_of_2(size)
        by_program = max(1, 8192 // block)
        kernel[(triton.cdiv(rows, by_program),)](
            x, residual, self.weight, out, rows, size, self.eps, residual is not None, by_program, block
        )
        return out if residual is None else (out, residual)
