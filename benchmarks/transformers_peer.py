"""A model as transformers runs it, over the same weights as ours: eager, and compiled as far as it goes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fastkernels_gym.engine.build import bind_parameters, born_on_meta

_SLACK = 16  # positions of the cache beyond the context: steps in a row before it is set back
_RENAMED = {"block_sparse_moe": "mlp", "w13_weight": "gate_up_proj", "w2_weight": "down_proj"}
_PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_CAUSAL = "sdpa_without_masks"


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """None lets SDPA be causal by itself, which tracing would not dare; windows need theirs."""
    return sdpa_mask(*args, **kwargs) if kwargs.get("local_size") is not None else None


AttentionInterface.register(_CAUSAL, sdpa_attention_forward)
AttentionMaskInterface.register(_CAUSAL, _mask)


class Peer:
    """transformers' model of a config, its parameters views of ours.

    Args:
        config: the model's.
        ours: our model, at least as deep.
        num_layers: its depth.
    """

    def __init__(self, config: Any, ours: nn.Module, num_layers: int) -> None:
        weight = next(ours.parameters())
        self.device, self.dtype, self.num_layers = weight.device, weight.dtype, num_layers
        self.config = at_depth(config, num_layers)
        with torch.device(self.device), born_on_meta():
            model = AutoModelForCausalLM.from_config(self.config, dtype=self.dtype, attn_implementation="sdpa")
        self.model = model.eval().requires_grad_(False)
        bind_parameters(self.model, _views(ours, self.model))
        accepted = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) to (tokens, vocabulary)."""
        self._attend_by("sdpa")
        return self.model(input_ids=ids[None], use_cache=False).logits[0]

    def prefill(self, ids: torch.Tensor, *, compiled: bool) -> tuple[Callable[[], object], Callable[[], None]]:
        """The last token's logits of a (batch, tokens) prompt, without a cache to fill, which favours it.

        Compiled, attention is causal without a mask.

        Returns:
            The pass, and what must run before it.
        """

        def run() -> torch.Tensor:
            return self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits

        return _compiled(run) if compiled else run, lambda: self._attend_by(_CAUSAL if compiled else "sdpa")

    def decode(self, batch: int, context: int, *, compiled: bool) -> tuple[Callable[[], object], Callable[[], None]]:
        """A step after `context` tokens in a static cache.

        Returns:
            The step, and what sets the cache back before it: up to `_SLACK` steps fit between.
        """
        cache = StaticCache(config=self.config, max_cache_len=context + _SLACK)
        config = self.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache.early_initialization(batch, config.num_key_value_heads, head, self.dtype, self.device)
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        ids = torch.randint(config.vocab_size, (batch, 1), device=self.device)
        positions = torch.full((batch, 1), context, device=self.device)
        arguments = {"input_ids": ids, "position_ids": positions, self._cache_name: cache, "use_cache": True}

        def set_back() -> None:
            self._attend_by("sdpa")
            for layer in cache.layers:
                layer.cumulative_length.fill_(context)
                if hasattr(layer, "cumulative_length_int"):
                    layer.cumulative_length_int = context

        def run() -> torch.Tensor:
            return self.model(**arguments, logits_to_keep=1).logits

        return _compiled(run) if compiled else run, set_back

    def _attend_by(self, attention: str) -> None:
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)


def _compiled(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    return torch.compile(run, fullgraph=True, dynamic=False)


def at_depth(config: Any, num_layers: int) -> Any:
    """A copy of the config with so many layers, and the rotary frequencies that ours has."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:num_layers]
    rope = getattr(config, "rope_parameters", None) or {}
    if "long_factor" in rope:  # transformers goes by the sequence's length, ours and vLLM by the table's
        rope["short_factor"] = rope["long_factor"]
    return config


def _views(ours: nn.Module, theirs: nn.Module) -> dict[str, torch.Tensor]:
    """Our parameters by transformers' names: parts of packed ones are slices of them."""
    wanted = {name: param.shape for name, param in theirs.named_parameters(remove_duplicate=False)}
    found: dict[str, torch.Tensor] = {}
    for name, param in ours.named_parameters(remove_duplicate=False):
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        if name in wanted:
            found[name] = param.data[: wanted[name][0]]  # tables may be padded
            continue
        packed = next((part for part in _PACKED if f".{part}." in name), None)
        names = [name.replace(packed, part) for part in _PACKED[packed]] if packed else []
        if names and all(part in wanted for part in names):  # else a layer deeper than theirs
            parts = param.data.split([wanted[part][0] for part in names])
            found |= dict(zip(names, parts, strict=True))
    return found
