"""How checkpoints get into parameters: each parameter carries the loader that knows its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WeightLoader = Callable[..., None]
ShardId = str | int | tuple[int, str]
"""Which part of a packed parameter a weight is: a name, a number, or an expert and its projection."""


def parameter(*shape: int, dtype: torch.dtype | None, loader: WeightLoader) -> nn.Parameter:
    """An uninitialised parameter with its `weight_loader(parameter, loaded[, shard_id])`."""
    param = nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)
    param.weight_loader = loader  # type: ignore[attr-defined]
    return param


def copy_shard(target: torch.Tensor, loaded: torch.Tensor, dim: int, shard: int, shards: int) -> None:
    """Copies one of the equal shards of `loaded` along `dim`.

    Raises:
        ValueError: if the shards together have another shape than `loaded`.
    """
    whole = list(target.shape)
    whole[dim] *= shards
    if list(loaded.shape) != whole:
        raise ValueError(f"a weight of shape {list(loaded.shape)} is given for {whole}")
    target.copy_(loaded.chunk(shards, dim)[shard])


def load_default(param: nn.Parameter, loaded: torch.Tensor) -> None:
    """Copies a whole weight.

    Raises:
        ValueError: if its shape is another.
    """
    if loaded.shape != param.shape:
        raise ValueError(f"a weight of shape {list(loaded.shape)} is given for {list(param.shape)}")
    param.data.copy_(loaded)


def load_named(name: str, param: nn.Parameter, loaded: torch.Tensor, shard_id: ShardId | None = None) -> None:
    """Loads a checkpoint's weight, or the shard that it is, through the parameter's own loader.

    Raises:
        ValueError: naming the weight, if its shape is another.
    """
    loader = getattr(param, "weight_loader", load_default)
    try:
        loader(param, loaded, *([] if shard_id is None else [shard_id]))
    except ValueError as error:
        raise ValueError(f"the checkpoint's {name}: {error}") from error


def refuse(**given: Any) -> None:
    """Raises for parameters of vLLM's that are not supported here, unless they are None or False.

    Raises:
        ValueError: naming the first one that is given.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}={value!r} is not supported")
