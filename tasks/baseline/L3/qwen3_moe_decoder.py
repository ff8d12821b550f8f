"""A decoder layer of Qwen3-MoE: Qwen3's, with experts for a feed-forward block in most layers."""

from __future__ import annotations

from typing import Any

from ..forward_context import layer_index
from ..L2.qwen3_moe import Qwen3MoeSparseMoeBlock
from ..operator import Operator
from .qwen3_decoder import Qwen3DecoderLayer


class Qwen3MoeDecoderLayer(Qwen3DecoderLayer):
    """As `LlamaDecoderLayer`; the config says which layers are dense."""

    def build_mlp(self, config: Any, prefix: str) -> Operator:
        layer = layer_index(prefix)
        if layer in (config.mlp_only_layers or ()) or (layer + 1) % config.decoder_sparse_step:
            return super().build_mlp(config, prefix)
        return Qwen3MoeSparseMoeBlock(config, prefix)


__all__ = ["Qwen3MoeDecoderLayer"]
