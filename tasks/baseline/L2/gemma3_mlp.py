"""The gated feed-forward block of Gemma 3."""

from __future__ import annotations

import torch

from ..L1.gelu_and_mul import GeluAndMul
from ..operator import Operator
from ..weights import refuse
from .parallel_linear import MergedColumnParallelLinear, RowParallelLinear


class Gemma3MLP(Operator):
    """down(gelu(gate(x)) * up(x)).

    Args:
        hidden_size: input and output features.
        intermediate_size: features between.
        hidden_activation: must be `gelu_pytorch_tanh`.
        quant_config: not supported.
        prefix: the block's name in the model.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        hidden_activation: str,
        quant_config: None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config)
        if hidden_activation != "gelu_pytorch_tanh":
            raise ValueError(f"hidden_activation={hidden_activation!r} is not supported, only 'gelu_pytorch_tanh'")
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden_size, [intermediate_size] * 2, bias=False, prefix=f"{prefix}.gate_up_proj"
        )
        self.act_fn = GeluAndMul(approximate="tanh")
        self.down_proj = RowParallelLinear(intermediate_size, hidden_size, bias=False, prefix=f"{prefix}.down_proj")

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) to (tokens, hidden)."""
        gate_up, _ = self.gate_up_proj(x)
        output, _ = self.down_proj(self.act_fn(gate_up))
        return output


__all__ = ["Gemma3MLP"]
