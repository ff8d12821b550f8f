"""The mixture of experts of Mixtral."""

from __future__ import annotations

import torch

from ..operator import Operator
from ..weights import refuse
from .fused_moe import FusedMoE
from .parallel_linear import ReplicatedLinear


class MixtralMoE(Operator):
    """A router and its experts; the weights of a token's experts sum to one (Jiang et al., 2024).

    Args:
        num_experts: experts of the block.
        top_k: experts of a token.
        hidden_size: input and output features.
        intermediate_size: features of one expert.
        params_dtype: of the weights; None takes the default dtype.
        quant_config: not supported.
        tp_size: not supported.
        dp_size: not supported.
        prefix: the block's name in the model.
        enable_eplb: not supported.
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        hidden_size: int,
        intermediate_size: int,
        params_dtype: torch.dtype | None = None,
        quant_config: None = None,
        tp_size: int | None = None,
        dp_size: int | None = None,
        prefix: str = "",
        enable_eplb: bool = False,
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config, tp_size=tp_size, dp_size=dp_size, enable_eplb=enable_eplb)
        self.gate = ReplicatedLinear(
            hidden_size, num_experts, bias=False, params_dtype=params_dtype, prefix=f"{prefix}.gate"
        )
        self.experts = FusedMoE(
            num_experts, top_k, hidden_size, intermediate_size, params_dtype, prefix=f"{prefix}.experts"
        )

    def forward_native(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., hidden) to (..., hidden)."""
        flat = hidden_states.view(-1, hidden_states.shape[-1])
        router_logits, _ = self.gate(flat)
        return self.experts(flat, router_logits).view(hidden_states.shape)


__all__ = ["MixtralMoE"]
