"""How checkpoints get into parameters: each parameter carries the loader that knows its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WeightLoader = Callable[..., None]


def parameter(*shape: int, dtype: torch.dtype | None, loader: WeightLoader) -> nn.Parameter:
    """An uninitialised parameter with its `weight_loader(parameter, loaded[, shard_id])`."""
    param = nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)
    param.weight_loader = loader  # type: ignore[attr-defined]
    return param


def copy_shard(target: torch.Tensor, loaded: torch.Tensor, dim: int, rank: int) -> None:
    """Copies a rank's equal share of `loaded` along `dim`.

    Raises:
        ValueError: if the share has another shape than the target.
    """
    size = target.shape[dim]
    if loaded.shape[dim] < (rank + 1) * size or loaded.narrow(dim, rank * size, size).shape != target.shape:
        raise ValueError(f"a weight of shape {list(loaded.shape)} does not fill {list(target.shape)} on rank {rank}")
    target.copy_(loaded.narrow(dim, rank * size, size))


def load_default(param: nn.Parameter, loaded: torch.Tensor) -> None:
    """Copies a whole weight.

    Raises:
        ValueError: if its shape is another.
    """
    if loaded.shape != param.shape:
        raise ValueError(f"a weight of shape {list(loaded.shape)} does not fill {list(param.shape)}")
    param.data.copy_(loaded)


def refuse(**given: Any) -> None:
    """Raises for parameters of vLLM's that are not supported here, unless they have their defaults.

    Raises:
        ValueError: naming the first one that is given.
    """
    for name, value in given.items():
        if value:
            raise ValueError(f"{name}={value!r} is not supported")
