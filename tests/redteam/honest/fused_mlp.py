# Honest: a whole block replaced: two products and the activation between them, no operator below.
# task: L2/llama_mlp
import torch
from fastkernels_gym.tasks.baseline.L2.parallel_linear import MergedColumnParallelLinear, RowParallelLinear
from torch import nn


class LlamaMLP(nn.Module):
    def __init__(
        self, hidden_size, intermediate_size, hidden_act, quant_config=None, bias=False, prefix="",
        reduce_results=True, disable_tp=False,
    ):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(hidden_size, [intermediate_size] * 2, bias=bias)
        self.down_proj = RowParallelLinear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x):
        gate, up = (x @ self.gate_up_proj.weight.T).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up) @ self.down_proj.weight.T
