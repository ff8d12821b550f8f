"""Self-attention of Qwen2: biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ..L1.rotary_emb import RotaryEmbedding
from ..weights import refuse
from .attention import LlamaAttention


class Qwen2Attention(LlamaAttention):
    """Llama's attention with biases, built from scalars as vLLM builds it.

    Args:
        hidden_size: input and output features.
        num_heads: query heads of all ranks.
        num_kv_heads: key and value heads of all ranks.
        rope_parameters: the config's.
        max_position: positions of the rotary table.
        cache_config: not supported.
        quant_config: not supported.
        prefix: the block's name in the model; holds the layer's number.
        attn_type: must be `decoder`.
        dual_chunk_attention_config: not supported.
        qk_norm: not supported.
        rms_norm_eps: of the norms that are not supported.
        rotary_emb: shared by all layers; None builds one.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        rope_parameters: Mapping[str, Any],
        max_position: int = 4096 * 32,
        cache_config: None = None,
        quant_config: None = None,
        prefix: str = "",
        attn_type: str = "decoder",
        dual_chunk_attention_config: None = None,
        qk_norm: bool = False,
        rms_norm_eps: float = 1e-6,
        rotary_emb: RotaryEmbedding | None = None,
    ) -> None:
        refuse(dual_chunk_attention_config=dual_chunk_attention_config, qk_norm=qk_norm)
        super().__init__(
            SimpleNamespace(head_dim=None, rope_parameters=rope_parameters), hidden_size, num_heads, num_kv_heads,
            max_position, quant_config, True, False, cache_config, prefix, attn_type, rotary_emb,
        )  # fmt: skip


__all__ = ["Qwen2Attention"]
