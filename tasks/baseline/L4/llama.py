"""Llama: token ids to logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from ..forward_context import record_layer
from ..L1.rms_norm import RMSNorm
from ..L1.rotary_emb import RotaryEmbedding, get_rope
from ..L2.parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from ..L3.llama_decoder import LlamaDecoderLayer
from ..operator import Operator
from ..weights import ShardId, load_named, refuse


class LlamaModel(nn.Module):
    """Embedding, layers, final norm; every state between them is handed to `record_layer`."""

    def __init__(self, config: Any, build_layer: Any, prefix: str) -> None:
        super().__init__()
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rotary_emb = get_rope(head_size, config.max_position_embeddings, rope_parameters=config.rope_parameters)
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        self.layers = nn.ModuleList(
            build_layer(config, f"{prefix}.layers.{index}", rotary_emb) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(input_ids)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden_states, residual = self.embed_input_ids(input_ids), None
        record_layer(0, hidden_states, residual)
        for index, layer in enumerate(self.layers, 1):
            hidden_states, residual = layer(positions, hidden_states, residual)
            record_layer(index, hidden_states, residual)
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class LlamaForCausalLM(Operator):
    """A whole model.

    Args:
        config: the model's.
        prefix: the model's name, where it is part of another.

    Attributes:
        packed_modules_mapping: a packed module's parts: their names in a checkpoint, and their shard ids.
        layer_types: the kinds of attention that its layers can do.
    """

    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention", "sliding_attention"})
    packed_modules_mapping: ClassVar[dict[str, dict[str, str | int]]] = {
        "qkv_proj": {"q_proj": "q", "k_proj": "k", "v_proj": "v"},
        "gate_up_proj": {"gate_proj": 0, "up_proj": 1},
    }

    def __init__(self, config: Any, prefix: str = "") -> None:
        super().__init__()
        refuse(layer_types=sorted({*(getattr(config, "layer_types", None) or ())} - self.layer_types) or None)
        self.config = config
        within = f"{prefix}." if prefix else ""
        self.model = self.build_model(config, f"{within}model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size, prefix=f"{within}lm_head")
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def build_model(self, config: Any, prefix: str) -> Any:
        return LlamaModel(config, self.build_layer, prefix)

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return LlamaDecoderLayer(config, prefix, rotary_emb)

    def forward_native(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states after the final norm: (tokens,) and (tokens,) int64 to (tokens, hidden)."""
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) to (rows, vocabulary)."""
        return self.lm_head(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a checkpoint's weights by their names there; packed ones may come in parts or whole.

        Returns:
            The names of the parameters that were loaded: all.

        Raises:
            ValueError: on a weight that the model has no place for, of another shape, or one that is missing.
        """
        parameters = dict(self.named_parameters())
        places = {part: (name, shard) for name in parameters for part, shard in self._parts(name)}
        missing = set(places)
        for name, tensor in weights:
            if name.endswith("rotary_emb.inv_freq") or (self.config.tie_word_embeddings and name == "lm_head.weight"):
                continue
            target, shard = places.get(name, (name, None))
            if target not in parameters:
                raise ValueError(f"the checkpoint's {name} has no place in {type(self).__name__}")
            load_named(name, parameters[target], tensor, shard)
            missing -= {name} if name in places else {part for part, _ in self._parts(name)}
        if missing:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(missing)[:5])}")
        return set(parameters)

    def _parts(self, name: str) -> list[tuple[str, ShardId | None]]:
        """A parameter's names in a checkpoint, each with its shard id if the parameter is packed."""
        module, _, kind = name.rpartition(".")
        block, _, packed = module.rpartition(".")
        parts = self.packed_modules_mapping.get(packed)
        return [(f"{block}.{part}.{kind}", shard) for part, shard in parts.items()] if parts else [(name, None)]


__all__ = ["LlamaForCausalLM"]
