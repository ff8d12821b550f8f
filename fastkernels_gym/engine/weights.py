"""Weights: drawn at random, or read from a checkpoint's safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fastkernels_gym.errors import UnknownModel
from fastkernels_gym.tasks.baseline.weights import load_named

_INDEX = "model.safetensors.index.json"


def fill_parameter(name: str, tensor: torch.Tensor, generator: torch.Generator, std: float) -> None:
    """Draws one parameter in place; none is ever constant.

    Args:
        name: norms' weights are 1 + 0.1 N, biases 0.02 N, all others N(0, std).
        tensor: any shape, on the generator's device.
        generator: the source.
        std: the config's `initializer_range`.
    """
    if name.endswith("bias"):
        tensor.normal_(0.0, 0.02, generator=generator)
    elif tensor.dim() == 1 and "norm" in name:
        tensor.normal_(1.0, 0.1, generator=generator)
    else:
        tensor.normal_(0.0, std, generator=generator)


def random_weights(model: nn.Module, generator: torch.Generator, std: float, whole: nn.Module | None = None) -> None:
    """Draws every parameter in place, each tied one once, by the rule of `fill_parameter`.

    Args:
        model: on the generator's device.
        generator: the source.
        std: the config's `initializer_range`.
        whole: the model as one rank alone has it, on any device; then `model` is given its shards of what that would
            be given. None where it is alone.
    """
    if whole is None:
        for name, param in model.named_parameters():
            fill_parameter(name, param.data, generator, std)
        return
    wholes = dict(whole.named_parameters())
    for name, param in model.named_parameters():
        drawn = torch.empty_like(wholes[name], device=param.device)
        fill_parameter(name, drawn, generator, std)
        # A vocabulary is loaded without its padding.
        rows = getattr(model.get_submodule(name.rpartition(".")[0]), "num_embeddings", None)
        load_named(name, param, drawn[:rows])


def load_checkpoint(model: nn.Module, folder: Path) -> None:
    """Reads a folder's safetensors through the model's own loaders, one tensor in memory at a time.

    Raises:
        UnknownModel: if the folder holds none, or weights that are not the model's.
    """
    try:
        model.load_weights(_tensors(folder))  # type: ignore[operator]
    except (KeyError, OSError, SafetensorError, ValueError) as error:
        raise UnknownModel(f"{folder}: {error}") from error


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    index = folder / _INDEX
    if index.exists():  # it says which shards count: some folders hold the same weights twice
        shards = sorted({folder / shard for shard in json.loads(index.read_bytes())["weight_map"].values()})
    else:
        shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ValueError("no *.safetensors here")
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                yield name, file.get_tensor(name)
