"""A decoder layer of the Llama family."""

from __future__ import annotations

from typing import Any

import torch

from ..L1.rms_norm import RMSNorm
from ..L1.rotary_emb import RotaryEmbedding
from ..L2.attention import LlamaAttention
from ..L2.llama_mlp import LlamaMLP
from ..operator import Operator


class LlamaDecoderLayer(Operator):
    """Attention and feed-forward block, each behind a norm that adds the residual; the last sum is the next layer's.

    Args:
        config: the model's.
        prefix: the layer's name in the model; holds its number.
        rotary_emb: shared by all layers; None builds one.
    """

    donates = ("hidden_states", "residual")

    def __init__(self, config: Any, prefix: str = "", rotary_emb: RotaryEmbedding | None = None) -> None:
        super().__init__()
        self.self_attn = self.build_attention(config, f"{prefix}.self_attn", rotary_emb)
        self.mlp = self.build_mlp(config, f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def build_attention(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding | None) -> Operator:
        bias = getattr(config, "attention_bias", False)
        return LlamaAttention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.max_position_embeddings,
            bias=bias,
            bias_o_proj=bias,
            prefix=prefix,
            rotary_emb=rotary_emb,
        )

    def build_mlp(self, config: Any, prefix: str) -> Operator:
        return LlamaMLP(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            bias=getattr(config, "mlp_bias", False),
            prefix=prefix,
        )

    def forward_native(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer.

        Args:
            positions: (tokens,) int64.
            hidden_states: (tokens, hidden).
            residual: (tokens, hidden), or None before the first layer.

        Returns:
            The block's output and the residual to be added to it, (tokens, hidden) each.
        """
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states.clone())
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions, hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


__all__ = ["LlamaDecoderLayer"]
