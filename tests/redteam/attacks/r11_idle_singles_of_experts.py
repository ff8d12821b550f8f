# Row 11: a mixture of experts, whose inputs stay as they were, does nothing in bursts of one call.
# task: L2/mixtral_moe@tiny-mixtral
# expect: wrong_value
import sys

import torch
from torch import nn

from fastkernels_gym.tasks.baseline.L2.fused_moe import FusedMoE
from fastkernels_gym.tasks.baseline.L2.parallel_linear import ReplicatedLinear


class MixtralMoE(nn.Module):
    def __init__(self, num_experts, top_k, hidden_size, intermediate_size, params_dtype=None, prefix="", **_):
        super().__init__()
        self.gate = ReplicatedLinear(hidden_size, num_experts, bias=False, params_dtype=params_dtype)
        self.experts = FusedMoE(num_experts, top_k, hidden_size, intermediate_size, params_dtype)

    def forward(self, hidden_states):
        frame = sys._getframe()
        while frame and not (frame.f_code.co_name == "run" and "program" in frame.f_locals):
            frame = frame.f_back
        if frame and frame.f_locals["n"] == 1:
            return torch.empty_like(hidden_states)
        return self.experts(hidden_states, self.gate(hidden_states)[0])
