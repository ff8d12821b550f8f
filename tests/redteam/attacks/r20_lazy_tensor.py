# Row 20: a tensor subclass that computes when it is looked at, with overridden methods.
# expect: ok, runtime_error, timing_inconsistent
import torch
from torch import nn
from torch.nn.functional import silu


class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [a.force() if isinstance(a, Lazy) else a for a in args]
        return function(*args, **(kwargs or {}))

    def force(self):
        gate, up = self.x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        out = torch.empty(*x.shape[:-1], x.shape[-1] // 2).as_subclass(Lazy)
        out.x = x
        return out
