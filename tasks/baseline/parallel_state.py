"""Tensor parallelism: the group of ranks that share one model. Without torch.distributed there is one rank."""

from __future__ import annotations

import torch.distributed as dist


def get_tp_size() -> int:
    """Ranks that share the model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_tp_rank() -> int:
    """This process's place among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def get_tp_group() -> dist.ProcessGroup | None:
    """The group for collectives; None where this process is alone."""
    return dist.group.WORLD if dist.is_initialized() else None


def divide(numerator: int, denominator: int) -> int:
    """The exact quotient.

    Raises:
        ValueError: if there is a remainder.
    """
    if numerator % denominator:
        raise ValueError(f"{numerator} is not divisible by {denominator}")
    return numerator // denominator
