"""Self-attention of Qwen3: each head of queries and keys is normalised before it is rotated."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from ..L1.rms_norm import RMSNorm
from ..L1.rotary_emb import RotaryEmbedding
from ..weights import refuse
from .attention import LlamaAttention


class Qwen3Attention(LlamaAttention):
    """Llama's attention with per-head norms, built from scalars as vLLM builds it.

    Args:
        hidden_size: input and output features.
        num_heads: query heads of all ranks.
        num_kv_heads: key and value heads of all ranks.
        rope_parameters: the config's.
        max_position: positions of the rotary table.
        head_dim: size of a head; None means hidden_size // num_heads.
        rms_norm_eps: of the norms.
        qkv_bias: of the projections to queries, keys and values.
        cache_config: not supported.
        quant_config: not supported.
        prefix: the block's name in the model; holds the layer's number.
        attn_type: must be `decoder`.
        dual_chunk_attention_config: not supported.
        per_layer_sliding_window: how many tokens, its own included, a token attends to; None for all before it.
        mrope_positions_factor: must be 4; positions have one dimension here.
        rotary_emb: shared by all layers; None builds one.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        rope_parameters: Mapping[str, Any],
        max_position: int = 131072,
        head_dim: int | None = None,
        rms_norm_eps: float = 1e-6,
        qkv_bias: bool = False,
        cache_config: None = None,
        quant_config: None = None,
        prefix: str = "",
        attn_type: str = "decoder",
        dual_chunk_attention_config: None = None,
        per_layer_sliding_window: int | None = None,
        mrope_positions_factor: int = 4,
        rotary_emb: RotaryEmbedding | None = None,
    ) -> None:
        refuse(dual_chunk_attention_config=dual_chunk_attention_config)
        if mrope_positions_factor != 4:
            raise ValueError(f"mrope_positions_factor={mrope_positions_factor} is not supported")
        config = SimpleNamespace(
            head_dim=head_dim, rope_parameters=rope_parameters, sliding_window=per_layer_sliding_window
        )
        super().__init__(
            config, hidden_size, num_heads, num_kv_heads, max_position,
            quant_config, qkv_bias, False, cache_config, prefix, attn_type, rotary_emb,
        )  # fmt: skip
        self.q_norm = RMSNorm(self.head_size, eps=rms_norm_eps)
        self.k_norm = RMSNorm(self.head_size, eps=rms_norm_eps)

    def normalise(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key = (x.unflatten(-1, (-1, self.head_size)) for x in (query, key))
        return self.q_norm(query).flatten(-2), self.k_norm(key).flatten(-2)


__all__ = ["Qwen3Attention"]
