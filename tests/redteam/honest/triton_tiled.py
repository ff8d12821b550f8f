# Honest: Triton, tiles of rows and columns.
# device: cuda
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, out_ptr, rows, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None]
    mask = (row < rows) & (column < size)
    gate = tl.load(x_ptr + row * 2 * size + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + column, mask=mask, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * size + column, out.to(out_ptr.dtype.element_ty), mask=mask)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        rows, size = x.numel() // x.shape[-1], x.shape[-1] // 2
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], size, dtype=x.dtype, device=x.device)
        kernel[(triton.cdiv(rows, 32), triton.cdiv(size, 256))](x, out, rows, size, 32, 256)
        return out
