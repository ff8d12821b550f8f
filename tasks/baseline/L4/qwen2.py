"""Qwen2: Llama's model with Qwen2's layers."""

from __future__ import annotations

from typing import Any, ClassVar

from ..L1.rotary_emb import RotaryEmbedding
from ..L3.qwen2_decoder import Qwen2DecoderLayer
from ..operator import Operator
from .llama import LlamaForCausalLM


class Qwen2ForCausalLM(LlamaForCausalLM):
    """As `LlamaForCausalLM`."""

    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention"})

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return Qwen2DecoderLayer(config, prefix, rotary_emb)


__all__ = ["Qwen2ForCausalLM"]
