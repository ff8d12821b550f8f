"""Rotary position embedding, with the frequency scalings of the configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from ..operator import Operator
from ..tiling import cdiv, next_power_of_2


@triton.jit
def _rotate_heads(
    row_ptr, first_head, heads, head_size, cos, sin, lanes,
    HALF: tl.constexpr, HEADS: tl.constexpr, NEOX: tl.constexpr,
):  # fmt: skip
    head = first_head + tl.arange(0, HEADS)
    mask = (head < heads)[:, None] & (lanes < HALF)[None]
    first = row_ptr + head[:, None] * head_size + (lanes if NEOX else 2 * lanes)[None]
    second = first + (HALF if NEOX else 1)
    a = tl.load(first, mask=mask).to(tl.float32)
    b = tl.load(second, mask=mask).to(tl.float32)
    tl.store(first, (a * cos - b * sin).to(row_ptr.dtype.element_ty), mask=mask)
    tl.store(second, (b * cos + a * sin).to(row_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rotary_kernel(
    positions_ptr, query_ptr, key_ptr, cache_ptr, q_stride, k_stride, q_heads, kv_heads, head_size,
    HALF: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, NEOX: tl.constexpr,
):  # fmt: skip
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions_ptr + token).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    angle_ptr = cache_ptr + position * 2 * HALF + lanes
    cos = tl.load(angle_ptr, mask=lanes < HALF).to(tl.float32)[None]
    sin = tl.load(angle_ptr + HALF, mask=lanes < HALF).to(tl.float32)[None]
    q_blocks = tl.cdiv(q_heads, HEADS)
    # A pointer chosen by a condition would lose its known alignment, and with it the wide loads.
    if block < q_blocks:
        row = query_ptr + token * q_stride
        _rotate_heads(row, block * HEADS, q_heads, head_size, cos, sin, lanes, HALF, HEADS, NEOX)
    else:
        row = key_ptr + token * k_stride
        _rotate_heads(row, (block - q_blocks) * HEADS, kv_heads, head_size, cos, sin, lanes, HALF, HEADS, NEOX)


def rotate(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox_style: bool,
) -> None:
    """Rotates query and key in place in one launch, eight heads a program (Su et al., 2021).

    Computed in float32. Moves 2 * tokens * rotary_dim * (2 * heads + 2 * kv_heads + 1) bytes in 16-bit types.

    Args:
        positions: (tokens,) int64.
        query: (tokens, heads * head_size), any floating-point dtype, rows strided.
        key: (tokens, kv_heads * head_size), likewise, or None.
        cos_sin_cache: (max_position, rotary_dim), any floating-point dtype, cosines then sines, contiguous.
        head_size: size of a head; what lies beyond rotary_dim stays.
        is_neox_style: pairs (i, i + rotary_dim / 2) instead of (2 i, 2 i + 1).
    """
    tokens, q_heads = query.shape[0], query.shape[-1] // head_size
    kv_heads = 0 if key is None else key.shape[-1] // head_size
    half = cos_sin_cache.shape[1] // 2
    heads, block = min(8, next_power_of_2(max(q_heads, kv_heads))), next_power_of_2(half)
    if tokens:
        other = query if key is None else key
        _rotary_kernel[(tokens, cdiv(q_heads, heads) + cdiv(kv_heads, heads))](
            positions, query, other, cos_sin_cache, query.stride(0), other.stride(0), q_heads, kv_heads, head_size,
            half, block, heads, is_neox_style, num_warps=max(1, min(4, heads * block // 256)),
        )  # fmt: skip


class RotaryEmbedding(Operator):
    """Rotates the pairs of each head by angles that grow with the position (Su et al., 2021).

    Args:
        head_size: size of a head.
        rotary_dim: how much of it is rotated.
        max_position_embeddings: positions in the table.
        base: the base of the frequencies.
        is_neox_style: pairs (i, i + rotary_dim / 2) instead of (2 i, 2 i + 1).
        dtype: the table's; computed in float32.
        init_cache: must be True.
        rope_parameters: the config's; `rope_type` picks the scaling.
    """

    donates = ("query", "key")
    cos_sin_cache: torch.Tensor

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        init_cache: bool = True,
        *,
        rope_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not init_cache:
            raise ValueError("init_cache=False is not supported")
        self.head_size, self.rotary_dim, self.is_neox_style = head_size, rotary_dim, is_neox_style
        parameters = rope_parameters or {}
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        rule = scaling(parameters.get("rope_type", "default"))
        frequencies, magnitude = rule(1.0 / base**exponents, parameters, max_position_embeddings)
        angles = torch.outer(torch.arange(max_position_embeddings, dtype=torch.float32), frequencies)
        table = magnitude * torch.cat([angles.cos(), angles.sin()], -1)
        self.register_buffer("cos_sin_cache", table.to(dtype), persistent=False)

    def forward_native(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rotates.

        Args:
            positions: (tokens,) int64.
            query: (tokens, heads * head_size).
            key: (tokens, kv_heads * head_size).

        Returns:
            Query and key, rotated.
        """
        cos, sin = self.cos_sin_cache[positions].chunk(2, dim=-1)
        return self._rotate(query, cos, sin), None if key is None else self._rotate(key, cos, sin)

    def forward_cuda(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if torch.compiler.is_compiling():
            # Inductor (torch 2.11) copies what a kernel writes in place, and reads past the end of a strided view.
            return self.forward_native(positions, query, key)
        rotate(positions, query, key, self.cos_sin_cache, self.head_size, self.is_neox_style)
        return query, key

    def _rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        heads = x.unflatten(-1, (x.shape[-1] // self.head_size, self.head_size))
        turned, passed = heads[..., : self.rotary_dim].to(wide), heads[..., self.rotary_dim :]
        cos, sin = cos.to(wide).unsqueeze(1), sin.to(wide).unsqueeze(1)
        if self.is_neox_style:
            a, b = turned.chunk(2, dim=-1)
            out = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        else:
            a, b = turned[..., 0::2], turned[..., 1::2]
            out = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        return torch.cat([out.to(x.dtype), passed], dim=-1).reshape(x.shape)


# Of the base's frequencies, the config's parameters and the table's positions: the frequencies and the table's scale.
Scaling = Callable[[torch.Tensor, Mapping[str, Any], int], tuple[torch.Tensor, float]]


def _default(frequencies: torch.Tensor, parameters: Mapping[str, Any], positions: int) -> tuple[torch.Tensor, float]:
    return frequencies, 1.0


def _linear(frequencies: torch.Tensor, parameters: Mapping[str, Any], positions: int) -> tuple[torch.Tensor, float]:
    """Position interpolation (Chen et al., 2023)."""
    return frequencies / parameters["factor"], 1.0


def _llama3(frequencies: torch.Tensor, parameters: Mapping[str, Any], positions: int) -> tuple[torch.Tensor, float]:
    """Long wavelengths are stretched by the factor, short ones stay, those between are blended (Llama 3.1)."""
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original = parameters["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequencies
    blend = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * frequencies / parameters["factor"] + blend * frequencies, 1.0


def _longrope(frequencies: torch.Tensor, parameters: Mapping[str, Any], positions: int) -> tuple[torch.Tensor, float]:
    """A factor for each frequency, and larger queries and keys (Ding et al., 2024).

    A table longer than the pretraining takes the long factors for every sequence, as vLLM's does: were they to change
    while a sequence grows, the keys in the cache would no longer fit.
    """
    original = parameters["original_max_position_embeddings"]
    factors = parameters["long_factor" if positions > original else "short_factor"]
    stretch = parameters.get("factor") or positions / original
    magnitude = parameters.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return frequencies / torch.tensor(factors, dtype=frequencies.dtype), magnitude


_SCALINGS: dict[str, Scaling] = {"default": _default, "linear": _linear, "llama3": _llama3, "longrope": _longrope}


def scaling(rope_type: str) -> Scaling:
    """The rule of a `rope_type`.

    Raises:
        ValueError: if there is none of that name.
    """
    if rope_type not in _SCALINGS:
        raise ValueError(f"rope_type {rope_type!r} is not supported: there are {', '.join(_SCALINGS)}")
    return _SCALINGS[rope_type]


def get_rope(
    head_size: int,
    max_position: int,
    is_neox_style: bool = True,
    rope_parameters: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> RotaryEmbedding:
    """The rotary embedding that a config's `rope_parameters` describe."""
    parameters = rope_parameters or {}
    rotary_dim = int(head_size * parameters.get("partial_rotary_factor", 1.0))
    base = float(parameters.get("rope_theta", 10000.0))
    dtype = dtype or torch.get_default_dtype()
    return RotaryEmbedding(head_size, rotary_dim, max_position, base, is_neox_style, dtype, rope_parameters=parameters)


__all__ = ["RotaryEmbedding"]
