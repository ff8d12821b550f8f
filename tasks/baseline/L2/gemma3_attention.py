"""Self-attention of Gemma 3: normalised heads, a scale of its own, and windows in most layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from ..forward_context import layer_index
from ..L1.gemma_rms_norm import GemmaRMSNorm
from ..L1.rotary_emb import RotaryEmbedding
from .attention import LlamaAttention


class Gemma3Attention(LlamaAttention):
    """Llama's attention with per-head norms; what the config says of the layer's kind decides its window and rotation.

    Args:
        config: the model's; its `query_pre_attn_scalar` scales the scores.
        hidden_size: input and output features.
        num_heads: query heads of all ranks.
        num_kv_heads: key and value heads of all ranks.
        head_dim: size of a head.
        max_position_embeddings: positions of the rotary table.
        cache_config: not supported.
        quant_config: not supported.
        attn_logits_soft_cap: bounds the scores by a tanh; None leaves them.
        prefix: the block's name in the model; holds the layer's number.
        rotary_emb: shared by all layers of the kind; None builds one.
    """

    def __init__(
        self,
        config: Any,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        max_position_embeddings: int,
        cache_config: None = None,
        quant_config: None = None,
        attn_logits_soft_cap: float | None = None,
        prefix: str = "",
        rotary_emb: RotaryEmbedding | None = None,
    ) -> None:
        of_layer = SimpleNamespace(
            head_dim=head_dim,
            rope_parameters=config.rope_parameters[config.layer_types[layer_index(prefix)]],
            layer_types=config.layer_types,
            sliding_window=config.sliding_window,
            score_options=(config.query_pre_attn_scalar**-0.5, attn_logits_soft_cap),
        )
        super().__init__(
            of_layer, hidden_size, num_heads, num_kv_heads, max_position_embeddings, quant_config,
            config.attention_bias, config.attention_bias, cache_config, prefix, rotary_emb=rotary_emb,
        )  # fmt: skip
        self.q_norm = GemmaRMSNorm(head_dim, eps=config.rms_norm_eps)
        self.k_norm = GemmaRMSNorm(head_dim, eps=config.rms_norm_eps)

    def score_options(self, config: Any) -> tuple[float, float | None]:
        scale, soft_cap = config.score_options
        return scale, soft_cap

    def normalise(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key = (x.unflatten(-1, (-1, self.head_size)) for x in (query, key))
        return self.q_norm(query).flatten(-2), self.k_norm(key).flatten(-2)


__all__ = ["Gemma3Attention"]
