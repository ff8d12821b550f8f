"""Qwen3: Llama's model with Qwen3's layers."""

from __future__ import annotations

from typing import Any

from ..L1.rotary_emb import RotaryEmbedding
from ..L3.qwen3_decoder import Qwen3DecoderLayer
from ..operator import Operator
from .llama import LlamaForCausalLM


class Qwen3ForCausalLM(LlamaForCausalLM):
    """As `LlamaForCausalLM`."""

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return Qwen3DecoderLayer(config, prefix, rotary_emb)


__all__ = ["Qwen3ForCausalLM"]
