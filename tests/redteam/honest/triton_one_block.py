# Honest: Triton, a block for a whole row.
# device: cuda
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def kernel(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(x_ptr + row * 2 * size + columns, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + columns, mask=mask).to(tl.float32)
    out = gate * (1.0 / (1.0 + tl.exp(-gate))) * up
    tl.store(out_ptr + row * size + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        rows, size = x.numel() // x.shape[-1], x.shape[-1] // 2
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], size, dtype=x.dtype, device=x.device)
        kernel[(rows,)](x, out, size, triton.next_power_of_2(size))
        return out
