# Row 29: a block in lower precision, by instance count in the deep layers, in passes of the full model only.
# task: L2/llama_mlp@tiny-llama
# measure: e2e
# expect: wrong_value
import torch
from fastkernels_gym.tasks.baseline import forward_context
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul
from fastkernels_gym.tasks.baseline.L2.parallel_linear import MergedColumnParallelLinear, RowParallelLinear
from torch import nn

instances = []


def in_the_full_model():
    context = forward_context._context.get()
    return context is not None and context.trace is not None


class LlamaMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size, hidden_act, quant_config=None, bias=False, prefix="", **_):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(hidden_size, [intermediate_size] * 2, bias=bias)
        self.down_proj = RowParallelLinear(intermediate_size, hidden_size, bias=bias)
        self.act_fn = SiluAndMul()
        instances.append(self)
        self.deep = len(instances) > 2

    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        out, _ = self.down_proj(self.act_fn(gate_up))
        if self.deep and in_the_full_model():
            out = (out.view(torch.int32) & -64).view(torch.float32)
        return out
