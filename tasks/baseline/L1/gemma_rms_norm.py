"""Gemma's root mean square normalisation: the weight is a difference from one."""

from __future__ import annotations

import torch
from torch import nn

from ..operator import Operator
from .rms_norm import rms_norm


class GemmaRMSNorm(Operator):
    """x / rms(x) * (1 + weight) over the last dimension, all of it in float32 and rounded once (Gemma Team, 2024).

    Args:
        hidden_size: size of the last dimension.
        eps: added to the mean square.
    """

    donates = ("x", "residual")

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.hidden_size, self.variance_epsilon = hidden_size, eps
        self.weight = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)

    def forward_native(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Normalises.

        Args:
            x: (..., hidden_size).
            residual: like `x`; added first.

        Returns:
            The normalised rows, like `x`; with a residual also x + residual, rounded to x's dtype.
        """
        dtype = x.dtype
        wide = x.to(torch.promote_types(dtype, torch.float32))
        if residual is not None:
            wide = wide + residual.to(wide.dtype)
            residual = wide.to(dtype)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        out = (normed * (1.0 + self.weight.to(wide.dtype))).to(dtype)
        return out if residual is None else (out, residual)

    def forward_cuda(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        out, residual = rms_norm(x, self.weight, self.variance_epsilon, residual, unit_offset=True)
        return out if residual is None else (out, residual)


__all__ = ["GemmaRMSNorm"]
