# Honest: experts chosen and computed in float64, one after the other.
# task: L2/mixtral_moe@tiny-mixtral
import torch
from torch import nn
from torch.nn.functional import silu

from fastkernels_gym.tasks.baseline.L2.fused_moe import FusedMoE
from fastkernels_gym.tasks.baseline.L2.parallel_linear import ReplicatedLinear


class MixtralMoE(nn.Module):
    def __init__(self, num_experts, top_k, hidden_size, intermediate_size, params_dtype=None, prefix="", **_):
        super().__init__()
        self.top_k = top_k
        self.gate = ReplicatedLinear(hidden_size, num_experts, bias=False, params_dtype=params_dtype)
        self.experts = FusedMoE(num_experts, top_k, hidden_size, intermediate_size, params_dtype)

    def forward(self, hidden_states):
        x = hidden_states.double()
        weights, ids = (x @ self.gate.weight.double().T).softmax(-1).topk(self.top_k)
        out = torch.zeros_like(x)
        for expert, (w13, w2) in enumerate(zip(self.experts.w13_weight, self.experts.w2_weight)):
            rows, place = (ids == expert).nonzero(as_tuple=True)
            gate, up = (x[rows] @ w13.double().T).chunk(2, -1)
            share = (weights / weights.sum(-1, keepdim=True))[rows, place]
            out.index_add_(0, rows, (silu(gate) * up) @ w2.double().T * share[:, None])
        return out.to(hidden_states.dtype)
