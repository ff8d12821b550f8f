"""The mixture of experts of Qwen3."""

from __future__ import annotations

from typing import Any

import torch

from ..operator import Operator
from ..weights import refuse
from .fused_moe import FusedMoE
from .parallel_linear import ReplicatedLinear


class Qwen3MoeSparseMoeBlock(Operator):
    """A router and many small experts.

    Args:
        config: the model's.
        prefix: the block's name in the model.
    """

    def __init__(self, config: Any, prefix: str = "") -> None:
        super().__init__()
        if config.hidden_act != "silu":
            raise ValueError(f"hidden_act={config.hidden_act!r} is not supported, only 'silu'")
        refuse(shared_expert_intermediate_size=getattr(config, "shared_expert_intermediate_size", None) or None)
        self.gate = ReplicatedLinear(config.hidden_size, config.num_experts, bias=False, prefix=f"{prefix}.gate")
        self.experts = FusedMoE(
            config.num_experts,
            config.num_experts_per_tok,
            config.hidden_size,
            config.moe_intermediate_size,
            renormalize=config.norm_topk_prob,
            prefix=f"{prefix}.experts",
        )

    def forward_native(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) to (tokens, hidden)."""
        router_logits, _ = self.gate(hidden_states)
        return self.experts(hidden_states, router_logits)


__all__ = ["Qwen3MoeSparseMoeBlock"]
