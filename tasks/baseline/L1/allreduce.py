"""The sum over the ranks of a tensor-parallel group."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ..operator import Operator
from ..parallel_state import get_tp_group, get_tp_size


class AllReduce(Operator):
    """Sums a tensor over all ranks, in place; alone in its group it gives the tensor back.

    By NCCL on GPUs and gloo on a CPU. In a ring (Patarasuk and Yuan, 2009) each rank sends and receives
    2 * (ranks - 1) / ranks times x's bytes.
    """

    donates = ("x",)

    def forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """Sums.

        Args:
            x: any shape and floating-point dtype, the same on all ranks.

        Returns:
            The sum, like `x`, in its memory.
        """
        if get_tp_size() > 1:
            dist.all_reduce(x, group=get_tp_group())
        return x


__all__ = ["AllReduce"]
