"""Tensor parallelism: the group of ranks that share one model. Without torch.distributed there is one rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.distributed as dist

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is the only rank: what is built in it is whole."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def get_tp_size() -> int:
    """Ranks that share the model."""
    return dist.get_world_size() if _grouped() else 1


def get_tp_rank() -> int:
    """This process's place among them."""
    return dist.get_rank() if _grouped() else 0


def get_tp_group() -> dist.ProcessGroup | None:
    """The group for collectives; None where this process is alone."""
    return dist.group.WORLD if _grouped() else None


def _grouped() -> bool:
    return dist.is_initialized() and not _alone.get()


def divide(numerator: int, denominator: int) -> int:
    """The exact quotient.

    Raises:
        ValueError: if there is a remainder.
    """
    if numerator % denominator:
        raise ValueError(f"{numerator} is not divisible by {denominator}")
    return numerator // denominator
