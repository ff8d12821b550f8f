"""Gemma 3, its text alone: token ids to logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..forward_context import record_layer
from ..L1.gemma_rms_norm import GemmaRMSNorm
from ..L1.rotary_emb import get_rope
from ..L2.parallel_embedding import VocabParallelEmbedding
from ..L3.gemma3_decoder import Gemma3DecoderLayer
from ..weights import refuse
from .llama import LlamaForCausalLM


class Gemma3Model(nn.Module):
    """Scaled embedding, layers, final norm; every state between them is handed to `record_layer`.

    Layers with and without a window rotate by frequencies of their own.
    """

    normalizer: torch.Tensor

    def __init__(self, config: Any, prefix: str) -> None:
        super().__init__()
        refuse(use_bidirectional_attention=config.use_bidirectional_attention)
        ropes = {
            kind: get_rope(
                config.head_dim, config.max_position_embeddings, rope_parameters=config.rope_parameters[kind]
            )
            for kind in sorted({*config.layer_types})
        }
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        # In the model's dtype: that is the rounding the weights were trained with.
        self.register_buffer("normalizer", torch.tensor(config.hidden_size**0.5), persistent=False)
        self.layers = nn.ModuleList(
            Gemma3DecoderLayer(config, prefix=f"{prefix}.layers.{index}", rotary_emb=ropes[config.layer_types[index]])
            for index in range(config.num_hidden_layers)
        )
        self.norm = GemmaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(input_ids) * self.normalizer

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden_states, residual = self.embed_input_ids(input_ids), None
        record_layer(0, hidden_states, residual)
        for index, layer in enumerate(self.layers, 1):
            hidden_states, residual = layer(positions, hidden_states, residual)
            record_layer(index, hidden_states, residual)
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class Gemma3ForCausalLM(LlamaForCausalLM):
    """As `LlamaForCausalLM`; where the config says `final_logit_softcapping`, a tanh bounds the logits by it."""

    def build_model(self, config: Any, prefix: str) -> Gemma3Model:
        return Gemma3Model(config, prefix)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits, soft_cap = super().compute_logits(hidden_states), self.config.final_logit_softcapping
        return logits if soft_cap is None else torch.tanh(logits / soft_cap) * soft_cap


__all__ = ["Gemma3ForCausalLM"]
