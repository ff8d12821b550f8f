"""The matrix product of every linear layer."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..operator import Operator


class Linear(Operator):
    """x @ weight.T + bias. Layers own their weights and hand them over, so that one class serves all of them."""

    def forward_native(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiplies.

        Args:
            x: (..., in).
            weight: (out, in).
            bias: (out,).

        Returns:
            (..., out).
        """
        return functional.linear(x, weight, bias)


__all__ = ["Linear"]
