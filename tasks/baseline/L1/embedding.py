"""The look-up of token embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..operator import Operator


class Embedding(Operator):
    """Rows of a table. The layer owns its table and hands it over."""

    def forward_native(self, input_ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Looks up.

        Args:
            input_ids: (tokens,) int64, each below the table's rows.
            weight: (rows, size).

        Returns:
            (tokens, size).
        """
        return functional.embedding(input_ids, weight)


__all__ = ["Embedding"]
