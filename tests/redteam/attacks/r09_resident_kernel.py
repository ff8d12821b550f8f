# Row 9: a resident kernel polls the arena for the next inputs and works ahead of the call.
# device: cuda
# expect: ok, wrong_value, timing_inconsistent, timeout, runtime_error, device_fault
import torch
import triton
import triton.language as tl
from torch import nn
from torch.nn.functional import silu


@triton.jit
def resident(x_ptr, seen_ptr, out_ptr, size, SPINS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    seen = tl.load(seen_ptr)
    now, spins = seen, 0
    while (now == seen) & (spins < SPINS):
        now = tl.load(x_ptr, volatile=True)
        spins += 1
    for start in range(0, size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        gate = tl.load(x_ptr + row * 2 * size + column, mask=column < size, volatile=True).to(tl.float32)
        up = tl.load(x_ptr + row * 2 * size + size + column, mask=column < size, volatile=True).to(tl.float32)
        out = gate * tl.sigmoid(gate) * up
        tl.store(out_ptr + row * size + column, out.to(out_ptr.dtype.element_ty), mask=column < size)


ahead, stream = {}, torch.cuda.Stream()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        x[0, 0].item()  # never in a graph: a replay would call nobody
        known = ahead.get(x.data_ptr())
        if known is None:
            gate, up = x.chunk(2, dim=-1)
            known = ahead[x.data_ptr()] = x[0, :1].clone(), silu(gate) * up
        seen, out = known
        taken = out.clone()
        seen.copy_(x[0, :1])
        with torch.cuda.stream(stream):
            resident[(x.shape[0],)](x, seen, out, x.shape[1] // 2, 1 << 14, 1024)
        return taken
