"""A decoder layer of Gemma 3: a norm before and a norm after each block."""

from __future__ import annotations

from typing import Any

import torch

from ..L1.gemma_rms_norm import GemmaRMSNorm
from ..L1.rotary_emb import RotaryEmbedding
from ..L2.gemma3_attention import Gemma3Attention
from ..L2.gemma3_mlp import Gemma3MLP
from ..operator import Operator
from ..weights import refuse


class Gemma3DecoderLayer(Operator):
    """Attention and feed-forward block, each between two norms; the last sum is the next layer's.

    Args:
        config: the model's.
        cache_config: not supported.
        quant_config: not supported.
        prefix: the layer's name in the model; holds its number.
        rotary_emb: shared by all layers of the kind; None builds one.
    """

    donates = ("hidden_states", "residual")

    def __init__(
        self,
        config: Any,
        cache_config: None = None,
        quant_config: None = None,
        prefix: str = "",
        rotary_emb: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__()
        refuse(cache_config=cache_config, quant_config=quant_config)
        self.self_attn = Gemma3Attention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.max_position_embeddings,
            attn_logits_soft_cap=config.attn_logit_softcapping,
            prefix=f"{prefix}.self_attn",
            rotary_emb=rotary_emb,
        )
        self.mlp = Gemma3MLP(
            config.hidden_size, config.intermediate_size, config.hidden_activation, prefix=f"{prefix}.mlp"
        )
        self.input_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_feedforward_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_feedforward_layernorm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

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
        hidden_states = self.post_attention_layernorm(self.self_attn(positions, hidden_states))
        hidden_states, residual = self.pre_feedforward_layernorm(hidden_states, residual)
        return self.post_feedforward_layernorm(self.mlp(hidden_states)), residual


__all__ = ["Gemma3DecoderLayer"]
