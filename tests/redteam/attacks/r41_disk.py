# Row 41: the disk filled.
# expect: runtime_error, out_of_memory, load_error
import torch
from torch import nn
from torch.nn.functional import silu

with open("/tmp/big", "wb") as file:
    while True:
        file.write(bytes(1 << 26))


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
