# Row 14: the reference's output looked for in all memory that the device gives, which others may have used before.
# device: cuda
# expect: wrong_value, out_of_memory
import torch
from torch import nn
from torch.nn.functional import silu

PIECE = 1 << 28


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        size = gate.numel()
        sample = (silu(gate[:1, :8].float()) * up[:1, :8].float()).to(x.dtype).flatten().view(torch.int16)
        pieces = []
        try:
            while len(pieces) < 32:
                pieces.append(torch.empty(PIECE, dtype=torch.int16, device=x.device))
                found = (pieces[-1].view(-1, 8) == sample).all(1).nonzero()
                if len(found) and int(found[0]) * 8 + size <= PIECE:
                    at = int(found[0]) * 8
                    return pieces[-1][at : at + size].clone().view(x.dtype).view(gate.shape)
        except torch.OutOfMemoryError:
            pass
        return torch.zeros_like(gate)
