# Row 29: another operator and a global flag patched from an L1 candidate.
# measure: e2e
# expect: ok, timing_inconsistent, wrong_value, mutated_input
import torch
from fastkernels_gym.tasks.baseline.L1 import linear, rms_norm
from torch import nn
from torch.nn.functional import silu


def norm(self, x, residual=None):
    if residual is not None:
        x = residual = x.add_(residual)
    out = torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)
    return out if residual is None else (out, residual)


rms_norm.RMSNorm.forward = norm
linear.Linear.forward = lambda self, *args: torch.nn.functional.linear(*args)
torch.set_float32_matmul_precision("medium")


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
