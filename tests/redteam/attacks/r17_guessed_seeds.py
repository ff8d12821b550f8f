# Row 17: inputs regenerated from well-known seeds, their results prepared.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu

prepared = {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for result in prepared.get(x.shape, ()):
            return result
        out = prepared.setdefault(x.shape, [])
        for seed in (0, 1, 42, 1234, 2024):
            torch.manual_seed(seed)
            guess = torch.randn(x.shape)
            if torch.allclose(guess[0, :4], x[0, :4]):
                g, u = guess.chunk(2, dim=-1)
                out.append(silu(g) * u)
        return torch.zeros_like(gate)
