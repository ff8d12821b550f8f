"""A decoder layer of Mixtral: Llama's attention, and experts for a feed-forward block."""

from __future__ import annotations

from typing import Any

import torch

from ..L1.rms_norm import RMSNorm
from ..L1.rotary_emb import RotaryEmbedding
from ..L2.attention import LlamaAttention
from ..L2.mixtral_moe import MixtralMoE
from ..operator import Operator


class MixtralDecoderLayer(Operator):
    """Attention and experts, each behind a norm that adds the residual; the last sum is the next layer's.

    Args:
        config: the model's.
        prefix: the layer's name in the model; holds its number.
        rotary_emb: shared by all layers; None builds one.
    """

    donates = ("hidden_states", "residual")

    def __init__(self, config: Any, prefix: str = "", rotary_emb: RotaryEmbedding | None = None) -> None:
        super().__init__()
        if config.hidden_act != "silu":
            raise ValueError(f"hidden_act={config.hidden_act!r} is not supported, only 'silu'")
        self.self_attn = LlamaAttention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.max_position_embeddings,
            prefix=f"{prefix}.self_attn",
            rotary_emb=rotary_emb,
        )
        self.block_sparse_moe = MixtralMoE(
            config.num_local_experts,
            config.num_experts_per_tok,
            config.hidden_size,
            config.intermediate_size,
            prefix=f"{prefix}.block_sparse_moe",
        )
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward_native(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer.

        Args:
            positions: (tokens,) int64.
            hidden_states: (tokens, hidden).
            residual: (tokens, hidden), or None before the first layer.

        Returns:
            The experts' output and the residual to be added to it, (tokens, hidden) each.
        """
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states.clone())
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions, hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.block_sparse_moe(hidden_states), residual


__all__ = ["MixtralDecoderLayer"]
