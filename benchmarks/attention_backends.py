"""Every fused attention on the machine that can do what `FlashAttnPrefill` does."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from fastkernels_gym.tasks.baseline.L1.flash_attn_prefill import FlashAttnPrefill, ragged_prefill

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Query, key, value: (tokens, heads, head_size); where sequences begin; the longest. As the operator's forward."""

_SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
}
_VARLEN_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def backends(module: FlashAttnPrefill, lengths: Sequence[int]) -> dict[str, Attention]:
    """By name; those that need sequences of one length are called once a sequence where lengths differ."""
    window = module.sliding_window if module.sliding_window and module.sliding_window < max(lengths) else None
    before, scale, soft_cap = -1 if window is None else window - 1, module.scale, module.logits_soft_cap
    found: dict[str, Attention] = {}
    if len(set(lengths)) == 1 and window is None and soft_cap is None:  # all else the operator itself gives to it
        found["triton"] = lambda q, k, v, bounds, longest: ragged_prefill(q, k, v, bounds, longest, scale)
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func

        found["flash-attn"] = lambda q, k, v, bounds, longest: flash_attn_varlen_func(
            q, k, v, bounds, bounds, longest, longest,
            softmax_scale=scale, causal=True, window_size=(before, 0), softcap=soft_cap or 0.0,
        )  # fmt: skip
    if soft_cap is not None:
        return found
    found["varlen_attn"] = _varlen(module, before)
    found["aten flash"] = lambda q, k, v, bounds, longest: torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, longest, longest, 0.0, True, False,
        scale=scale, window_size_left=before, window_size_right=0,
    )[0]  # fmt: skip
    if window is None:
        for name, backend in _SDPA.items():
            found[name if len(set(lengths)) == 1 else f"{name}, each"] = _sdpa(backend, lengths, scale)
    return found


def _varlen(module: FlashAttnPrefill, before: int) -> Attention:
    groups = module.num_heads // module.num_kv_heads

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        options = {"scale": module.scale, "window_size": (before, 0)}
        if _VARLEN_GROUPS:
            options["enable_gqa"] = True
        else:
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        return varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)

    return attend


def _sdpa(backend: SDPBackend, lengths: Sequence[int], scale: float) -> Attention:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        with sdpa_kernel(backend):
            if len(set(lengths)) == 1:
                return _attend(q, k, v, len(lengths), scale)
            parts = zip(*(t.split(list(lengths)) for t in (q, k, v)), strict=True)
            return torch.cat([_attend(*part, 1, scale) for part in parts])

    return attend


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: int, scale: float) -> torch.Tensor:
    q, k, v = (t.unflatten(0, (batch, -1)).transpose(1, 2) for t in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).contiguous().flatten(0, 1)
