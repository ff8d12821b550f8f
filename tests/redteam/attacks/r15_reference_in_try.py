# Row 15: the reference's own file executed, and called where the "kernel" fails.
# expect: ok, load_error
import pathlib

import fastkernels_gym.tasks.baseline as package
import torch
from torch import nn

source = pathlib.Path(package.__path__[0], "L1/silu_and_mul.py").read_text()
names = {"__name__": package.__name__ + ".L1.copy", "__package__": package.__name__ + ".L1"}
exec(source.replace("@triton.jit", ""), names)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
        self.reference = names["SiluAndMul"]()

    def forward(self, x):
        try:
            for _ in range(2):
                self.reference(x)
            return torch.ops.mine.fast_silu(x)
        except (AttributeError, RuntimeError):
            return self.reference(x)
