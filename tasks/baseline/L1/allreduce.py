"""The sum over the ranks of a tensor-parallel group."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ..operator import Operator
from ..parallel_state import get_tp_group, get_tp_size


class AllReduce(Operator):
    """Sums a tensor over all ranks, in place; alone in its group it gives the tensor back."""

    donates = ("x",)

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        if get_tp_size() > 1:
            dist.all_reduce(x, group=get_tp_group())
        return x


__all__ = ["AllReduce"]
