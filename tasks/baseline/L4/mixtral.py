"""Mixtral: Llama's model with Mixtral's layers."""

from __future__ import annotations

from typing import Any, ClassVar

from ..L1.rotary_emb import RotaryEmbedding
from ..L3.mixtral_decoder import MixtralDecoderLayer
from ..operator import Operator
from ..weights import ShardId
from .llama import LlamaForCausalLM


class MixtralForCausalLM(LlamaForCausalLM):
    """As `LlamaForCausalLM`; a checkpoint's experts come one by one, or stacked as the parameters are.

    Attributes:
        expert_modules_mapping: the parts of each stacked weight: an expert's projections in a checkpoint, and which
            they are.
    """

    expert_modules_mapping: ClassVar[dict[str, dict[str, str]]] = {
        "w13_weight": {"w1": "gate", "w3": "up"},
        "w2_weight": {"w2": "down"},
    }

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return MixtralDecoderLayer(config, prefix, rotary_emb)

    def _parts(self, name: str) -> list[tuple[str, ShardId | None]]:
        experts, _, kind = name.rpartition(".")
        if kind not in self.expert_modules_mapping:
            return super()._parts(name)
        parts = self.expert_modules_mapping[kind].items()
        count = self.get_parameter(name).shape[0]
        return [(f"{experts}.{n}.{part}.weight", (n, which)) for n in range(count) for part, which in parts]


__all__ = ["MixtralForCausalLM"]
