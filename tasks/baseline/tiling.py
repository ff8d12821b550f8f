"""Sizes of grids and tiles, on the host.

Triton's functions of these names serve in kernels too; on the host each call takes microseconds, and a decoder layer
that is launched eagerly would make a dozen or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cdiv(size: int, tile: int) -> int:
    """Tiles that cover a size."""
    return -(-size // tile)


def next_power_of_2(size: int) -> int:
    """The least power of two that is no less than a size; 1 for 0."""
    return 1 << max(size - 1, 0).bit_length()


def steps_at_16_bytes(x: torch.Tensor, dim: int) -> bool:
    """Whether a tensor, and each step along a dimension of it, begins where the copy engine (TMA) can read."""
    return x.data_ptr() % 16 == 0 and x.stride(dim) * x.element_size() % 16 == 0
