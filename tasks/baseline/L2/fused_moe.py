"""The experts of a mixture: their weights, and the way of tokens through them."""

from __future__ import annotations

import torch
from torch import nn

from ..L1.allreduce import AllReduce
from ..L1.grouped_gemm import GroupedGemm
from ..L1.moe_align_block_size import MoeAlignBlockSize
from ..L1.moe_sum import MoeSum
from ..L1.silu_and_mul import SiluAndMul
from ..L1.topk_softmax import TopkSoftmax
from ..operator import Operator
from ..parallel_state import divide, get_tp_rank, get_tp_size
from ..weights import copy_shard, parameter, refuse

_BLOCK_SIZES = (16, 32, 64, 128)


class FusedMoE(Operator):
    """Gated experts: each token goes to `top_k` of them, their outputs are weighted and summed.

    Every rank holds a share of each expert's features.

    Args:
        num_experts: experts of the block.
        top_k: experts of a token.
        hidden_size: input and output features.
        intermediate_size: features of one expert, of all ranks.
        params_dtype: of the weights; None takes the default dtype.
        renormalize: whether a token's weights sum to one.
        quant_config: not supported.
        tp_size: not supported.
        dp_size: not supported.
        prefix: the block's name in the model.
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        hidden_size: int,
        intermediate_size: int,
        params_dtype: torch.dtype | None = None,
        renormalize: bool = True,
        quant_config: None = None,
        tp_size: int | None = None,
        dp_size: int | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config, tp_size=tp_size, dp_size=dp_size)
        if not 0 < top_k <= num_experts:
            raise ValueError(f"top_k={top_k} is not from 1 to num_experts={num_experts}")
        self.num_experts, self.top_k = num_experts, top_k
        self.tp_size, self.tp_rank = get_tp_size(), get_tp_rank()
        inner = divide(intermediate_size, self.tp_size)
        self.w13_weight = parameter(num_experts, 2 * inner, hidden_size, dtype=params_dtype, loader=self.load_w13)
        self.w2_weight = parameter(num_experts, hidden_size, inner, dtype=params_dtype, loader=self.load_w2)
        self.topk_softmax = TopkSoftmax(top_k, renormalize)
        self.align = MoeAlignBlockSize()
        self.gate_up_gemm = GroupedGemm()
        self.act_fn = SiluAndMul()
        self.down_gemm = GroupedGemm()
        self.moe_sum = MoeSum()
        self.all_reduce = AllReduce()

    def load_w13(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: tuple[int, str] | None = None) -> None:
        """Loads one expert's gate or up projection, or, without a shard id, all experts' [gate; up]."""
        if shard_id is None:
            self._require_all(loaded)
            for expert, both in enumerate(loaded):
                for name, part in zip(("gate", "up"), both.chunk(2), strict=True):
                    self.load_w13(param, part, (expert, name))
            return
        expert, name = shard_id
        copy_shard(param.data[expert].chunk(2)[("gate", "up").index(name)], loaded, 0, self.tp_rank, self.tp_size)

    def load_w2(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: tuple[int, str] | None = None) -> None:
        """Loads one expert's down projection, or, without a shard id, all experts'."""
        if shard_id is None:
            self._require_all(loaded)
            for expert, part in enumerate(loaded):
                self.load_w2(param, part, (expert, "down"))
            return
        copy_shard(param.data[shard_id[0]], loaded, 1, self.tp_rank, self.tp_size)

    def _require_all(self, loaded: torch.Tensor) -> None:
        if loaded.dim() != 3 or loaded.shape[0] != self.num_experts:
            raise ValueError(f"a weight of shape {list(loaded.shape)} is given for {self.num_experts} experts")

    def forward_native(self, hidden_states: torch.Tensor, router_logits: torch.Tensor) -> torch.Tensor:
        """Routes and computes.

        Args:
            hidden_states: (tokens, hidden).
            router_logits: (tokens, num_experts).

        Returns:
            (tokens, hidden).
        """
        tokens = hidden_states.shape[0]
        block_size = self.block_size(tokens)
        weights, ids = self.topk_softmax(router_logits)
        places = self.align(ids, block_size, self.num_experts)
        gate_up = self.gate_up_gemm(hidden_states, self.w13_weight, None, *places, self.top_k, block_size)
        down = self.down_gemm(self.act_fn(gate_up), self.w2_weight, weights, *places, 1, block_size)
        output = self.moe_sum(down.view(tokens, self.top_k, -1))
        return self.all_reduce(output) if self.tp_size > 1 else output

    def block_size(self, tokens: int) -> int:
        """Rows of a tile: more than half of what an expert gets on average; few of the last tile's are then padding."""
        mean = tokens * self.top_k / self.num_experts
        return next((size for size in _BLOCK_SIZES if 2 * size > mean), _BLOCK_SIZES[-1])


__all__ = ["FusedMoE"]
