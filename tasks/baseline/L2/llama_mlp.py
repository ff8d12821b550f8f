"""The gated feed-forward block of the Llama family."""

from __future__ import annotations

import torch

from ..L1.silu_and_mul import SiluAndMul
from ..operator import Operator
from ..weights import refuse
from .parallel_linear import MergedColumnParallelLinear, RowParallelLinear


class LlamaMLP(Operator):
    """down(silu(gate(x)) * up(x)).

    Args:
        hidden_size: input and output features.
        intermediate_size: features between.
        hidden_act: must be `silu`.
        quant_config: not supported.
        bias: of the projections.
        prefix: the block's name in the model.
        reduce_results: False leaves the sum over the ranks to the caller.
        disable_tp: treats the group as one rank.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        hidden_act: str,
        quant_config: None = None,
        bias: bool = False,
        prefix: str = "",
        reduce_results: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config)
        if hidden_act != "silu":
            raise ValueError(f"hidden_act={hidden_act!r} is not supported, only 'silu'")
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden_size, [intermediate_size] * 2, bias=bias, prefix=f"{prefix}.gate_up_proj", disable_tp=disable_tp
        )
        self.act_fn = SiluAndMul()
        self.down_proj = RowParallelLinear(
            intermediate_size,
            hidden_size,
            bias=bias,
            reduce_results=reduce_results,
            prefix=f"{prefix}.down_proj",
            disable_tp=disable_tp,
        )

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) to (tokens, hidden)."""
        gate_up, _ = self.gate_up_proj(x)
        output, _ = self.down_proj(self.act_fn(gate_up))
        return output


__all__ = ["LlamaMLP"]
