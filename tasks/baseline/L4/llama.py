"""Llama: token ids to logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..L1.rms_norm import RMSNorm
from ..L1.rotary_emb import RotaryEmbedding, get_rope
from ..L2.parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from ..L3.llama_decoder import LlamaDecoderLayer
from ..operator import Operator
from ..weights import load_default

# Where a checkpoint's weights went: name in the checkpoint -> packed parameter and shard.
_PACKED: dict[str, tuple[str, str | int]] = {
    "q_proj": ("qkv_proj", "q"),
    "k_proj": ("qkv_proj", "k"),
    "v_proj": ("qkv_proj", "v"),
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
}


class LlamaModel(nn.Module):
    """Embedding, layers, final norm."""

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

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden_states, residual = self.embed_tokens(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(positions, hidden_states, residual)
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class LlamaForCausalLM(Operator):
    """A whole model.

    Args:
        config: the model's; the first norms, sizes and the number of layers come from it.
        prefix: the model's name, where it is part of another.
    """

    def __init__(self, config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(config, self.build_layer, f"{prefix}.model" if prefix else "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size, prefix="lm_head")
        if config.tie_word_embeddings:
            self.lm_head.tie_weights(self.model.embed_tokens)

    def build_layer(self, config: Any, prefix: str, rotary_emb: RotaryEmbedding) -> Operator:
        return LlamaDecoderLayer(config, prefix, rotary_emb)

    def forward_native(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states after the final norm: (tokens,) and (tokens,) int64 to (tokens, hidden)."""
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) to (rows, vocabulary)."""
        return self.lm_head(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a checkpoint's weights by their names there.

        Returns:
            The names of the parameters that were loaded.

        Raises:
            ValueError: on a weight that the model has no place for, of another shape, or one that is missing.
        """
        parameters, loaded, tied = dict(self.named_parameters()), set(), self.config.tie_word_embeddings
        for name, tensor in weights:
            if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
                continue
            target, shard = _unpack(name)
            if target not in parameters:
                raise ValueError(f"the checkpoint's {name!r} has no place in {type(self).__name__}")
            loader = getattr(parameters[target], "weight_loader", load_default)
            loader(parameters[target], tensor, *([] if shard is None else [shard]))
            loaded.add(target)
        if missing := parameters.keys() - loaded:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(missing)[:5])}")
        return loaded


def _unpack(name: str) -> tuple[str, str | int | None]:
    """The parameter that a checkpoint's weight belongs to, and its shard there."""
    parts = name.split(".")
    if len(parts) >= 2 and parts[-2] in _PACKED:
        parts[-2], shard = _PACKED[parts[-2]]
        return ".".join(parts), shard
    return name, None


__all__ = ["LlamaForCausalLM"]
