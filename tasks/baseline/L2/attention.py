"""Self-attention of the Llama family over paged keys and values."""

from __future__ import annotations

from typing import Any

import torch

from ..forward_context import get_forward_context, layer_index
from ..L1.flash_attn_decode import FlashAttnDecode
from ..L1.flash_attn_prefill import FlashAttnPrefill
from ..L1.rotary_emb import RotaryEmbedding, get_rope
from ..L1.store_kvcache import StoreKVCache
from ..operator import Operator
from ..parallel_state import divide, get_tp_size
from ..weights import refuse
from .parallel_linear import QKVParallelLinear, RowParallelLinear


class LlamaAttention(Operator):
    """o(attention(rope(q), rope(k), v)); new keys and values go to their pages first.

    Args:
        config: the model's; a `sliding_window` is for the layers whose `layer_types` say so, or for all.
        hidden_size: input and output features.
        num_heads: query heads of all ranks.
        num_kv_heads: key and value heads of all ranks.
        max_position_embeddings: positions of the rotary table.
        quant_config: not supported.
        bias: of the projections to queries, keys and values.
        bias_o_proj: of the output projection.
        cache_config: not supported.
        prefix: the block's name in the model; holds the layer's number.
        attn_type: must be `decoder`.
        rotary_emb: shared by all layers; None builds one.
    """

    def __init__(
        self,
        config: Any,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        max_position_embeddings: int = 8192,
        quant_config: None = None,
        bias: bool = False,
        bias_o_proj: bool = False,
        cache_config: None = None,
        prefix: str = "",
        attn_type: str = "decoder",
        rotary_emb: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config, cache_config=cache_config)
        if attn_type != "decoder":
            raise ValueError(f"attn_type={attn_type!r} is not supported, only 'decoder'")
        head_size = getattr(config, "head_dim", None) or hidden_size // num_heads
        self.prefix, self.head_size = prefix, head_size
        self.qkv_proj = QKVParallelLinear(
            hidden_size, head_size, num_heads, num_kv_heads, bias=bias, prefix=f"{prefix}.qkv_proj"
        )
        # Of this rank; where there are fewer KV heads than ranks, each holds one.
        self.num_heads = divide(num_heads, get_tp_size())
        self.num_kv_heads = divide(num_kv_heads, min(num_kv_heads, get_tp_size()))
        self.o_proj = RowParallelLinear(num_heads * head_size, hidden_size, bias=bias_o_proj, prefix=f"{prefix}.o_proj")
        self.rotary_emb = rotary_emb or get_rope(
            head_size, max_position_embeddings, rope_parameters=config.rope_parameters
        )
        self.store = StoreKVCache()
        scale, soft_cap = self.score_options(config)
        options = (self.num_heads, head_size, scale, self.num_kv_heads, soft_cap, sliding_window(config, prefix))
        self.prefill, self.decode = FlashAttnPrefill(*options), FlashAttnDecode(*options)

    def forward_native(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attends.

        Args:
            positions: (tokens,) int64.
            hidden_states: (tokens, hidden).

        Returns:
            (tokens, hidden).
        """
        qkv, _ = self.qkv_proj(hidden_states)
        kv_size = self.num_kv_heads * self.head_size
        query, key, value = qkv.split([self.num_heads * self.head_size, kv_size, kv_size], dim=-1)
        query, key = self.normalise(query, key)
        query, key = self.rotary_emb(positions, query, key)
        output, _ = self.o_proj(self.attend(query, key, value))
        return output

    def score_options(self, config: Any) -> tuple[float, float | None]:
        """Scale and soft cap of the scores."""
        return self.head_size**-0.5, None

    def normalise(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a family does to queries and keys before they are rotated; Llama does nothing."""
        return query, key

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Stores keys and values, then attends: (tokens, heads * head_size) each."""
        context = get_forward_context()
        metadata = context.attn_metadata
        k_cache, v_cache = context.layer_cache(self.prefix)
        query, key, value = (t.unflatten(-1, (-1, self.head_size)) for t in (query, key, value))
        self.store(key, value, k_cache, v_cache, metadata.slot_mapping)
        if metadata.is_decode:
            output = self.decode(query, k_cache, v_cache, metadata.block_table, metadata.seq_lens, metadata.max_seq_len)
        elif (cached := metadata.cached) is None:
            output = self.prefill(query, key, value, metadata.query_start_loc, metadata.max_query_len)
        else:  # a chunk of a prompt: earlier ones' keys and values lie in the pages
            key, value = (cache.flatten(0, 1)[cached.slots] for cache in (k_cache, v_cache))
            output = self.prefill(
                query, key, value, metadata.query_start_loc, metadata.max_query_len, cached.start_loc, cached.max_len
            )
        return output.flatten(-2)


def sliding_window(config: Any, prefix: str) -> int | None:
    """How many tokens, its own included, a token of a layer attends to; None for all before it.

    Raises:
        ValueError: if the config says that the layer's window slides, and not how long it is.
    """
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not kinds:
        return window
    if kinds[layer_index(prefix)] != "sliding_attention":
        return None
    if window is None:
        raise ValueError("layer_types names sliding_attention, but there is no sliding_window")
    return int(window)


__all__ = ["LlamaAttention"]
