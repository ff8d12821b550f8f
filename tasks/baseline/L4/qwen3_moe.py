"""Qwen3-MoE: Llama's model with Qwen3-MoE's layers."""

from __future__ import annotations

from typing import Any, ClassVar

from ..L1.rotary_emb import RotaryEmbedding
from ..L3.qwen3_moe_decoder import Qwen3MoeDecoderLayer
from ..operator import Operator
from .mixtral import MixtralForCausalLM


class Qwen3MoeForCausalLM(MixtralForCausalLM):
    """As `MixtralForCausalLM`."""

    expert_modules_mapping: ClassVar[dict[str, dict[str, str]]] = {
        "w13_weight": {"gate_proj": "gate", "up_proj": "up"},
        "w2_weight": {"down_proj": "down"},
    }

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return Qwen3MoeDecoderLayer(config, prefix, rotary_emb)


__all__ = ["Qwen3MoeForCausalLM"]
