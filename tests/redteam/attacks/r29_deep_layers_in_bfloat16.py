# Row 29: reduced precision in the deep layers only, told by counting instances.
# task: L1/linear@tiny-llama
# expect: wrong_value
import torch
from torch import nn

instances = []


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        instances.append(1)
        self.deep = len(instances) > 8

    def forward(self, x, weight, bias=None):
        if self.deep:
            x, weight = x.bfloat16().float(), weight.bfloat16().float()
        return torch.nn.functional.linear(x, weight, bias)
