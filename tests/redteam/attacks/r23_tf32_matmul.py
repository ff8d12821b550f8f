# Row 23: reduced precision by global flags, and by operands that are rounded to bfloat16.
# task: L1/linear@tiny-llama
# expect: wrong_value
import torch
from torch import nn

torch.set_float32_matmul_precision("medium")
torch.backends.cuda.matmul.allow_tf32 = True


class Linear(nn.Module):
    def forward(self, x, weight, bias=None):
        return torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias).float()
