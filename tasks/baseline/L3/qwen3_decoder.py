"""A decoder layer of Qwen3: Llama's, with Qwen3's attention."""

from __future__ import annotations

from typing import Any

from ..L1.rotary_emb import RotaryEmbedding
from ..L2.attention import sliding_window
from ..L2.qwen3_attention import Qwen3Attention
from ..operator import Operator
from .llama_decoder import LlamaDecoderLayer


class Qwen3DecoderLayer(LlamaDecoderLayer):
    """As `LlamaDecoderLayer`."""

    def build_attention(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding | None) -> Operator:
        return Qwen3Attention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rope_parameters,
            config.max_position_embeddings,
            head_dim=getattr(config, "head_dim", None),
            rms_norm_eps=config.rms_norm_eps,
            qkv_bias=getattr(config, "attention_bias", False),
            prefix=prefix,
            per_layer_sliding_window=sliding_window(config, prefix),
            rotary_emb=rotary_emb,
        )


__all__ = ["Qwen3DecoderLayer"]
