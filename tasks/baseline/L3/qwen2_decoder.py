"""A decoder layer of Qwen2: Llama's, with Qwen2's attention."""

from __future__ import annotations

from typing import Any

from ..L1.rotary_emb import RotaryEmbedding
from ..L2.qwen2_attention import Qwen2Attention
from ..operator import Operator
from .llama_decoder import LlamaDecoderLayer


class Qwen2DecoderLayer(LlamaDecoderLayer):
    """As `LlamaDecoderLayer`."""

    def build_attention(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding | None) -> Operator:
        return Qwen2Attention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rope_parameters,
            config.max_position_embeddings,
            prefix=prefix,
            rotary_emb=rotary_emb,
        )


__all__ = ["Qwen2DecoderLayer"]
