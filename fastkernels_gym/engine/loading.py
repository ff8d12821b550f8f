"""From a model's name to an engine that serves it."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import snapshot_download
from torch import nn

from fastkernels_gym.catalog.models import Model, bundled_models, load_model_config
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.engine.build import build_model, materialise
from fastkernels_gym.engine.llm import Engine
from fastkernels_gym.engine.ranks import join
from fastkernels_gym.engine.weights import load_checkpoint, random_weights
from fastkernels_gym.errors import UnknownModel
from fastkernels_gym.tasks.baseline.parallel_state import alone, get_tp_size

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_SEED = 0


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    weights: Literal["random", "checkpoint"] = "random",
    tp: int = 1,
) -> Engine:
    """An engine with a model's weights.

    Args:
        name_or_path: bundled name, config file, folder or hub id.
        device: `auto` takes a GPU where there is one.
        dtype: of weights, activations and KV cache; None takes the config's.
        weights: `random` draws them, the same on every call on one kind of device; `checkpoint` reads the folder's or
            the hub's safetensors.
        tp: processes that share the model, each with its shard of every layer: start them with `torchrun
            --nproc-per-node <tp>`, let all of them make the same calls, and `close` the engine at the end. Each takes
            the GPU of its place on its host (NCCL), or the CPU (gloo). Random weights are those of `tp=1`.

    Raises:
        UnknownModel: if there is no such config, or no checkpoint of it.
        UnsupportedModel: if no L4 operator runs it.
        ValueError: for a dtype, device or kind of weights that there is not, for as many ranks as were not started
            or do not divide the model.
    """
    if weights not in ("random", "checkpoint"):
        raise ValueError(f"weights={weights!r} is neither 'random' nor 'checkpoint'")
    device, dtype = _device(device), None if dtype is None else _dtype(dtype)
    model = load_model_config(str(name_or_path))
    folder = _checkpoint_folder(model) if weights == "checkpoint" else None
    return Engine(build_loaded(model, join(tp, device), dtype or model.dtype, folder))


def build_loaded(
    model: Model, device: torch.device, dtype: torch.dtype, folder: Path | None = None, num_layers: int | None = None
) -> nn.Module:
    """A model with its weights, or with this rank's shard of them.

    Args:
        model: which.
        device: where it is to be.
        dtype: of its weights.
        folder: whose safetensors are read; None draws random weights, of which each rank is given its shard.
        num_layers: a depth other than the config's, for random weights.

    Raises:
        UnknownModel: if the folder's weights are not the model's.
    """
    operator = find_operator(model.l4)
    l4: type[nn.Module] = getattr(importlib.import_module(operator.module), operator.class_name)
    build = partial(build_model, model.config, l4, dtype=dtype, num_layers=num_layers)
    module = build(device=device)
    materialise(module, device)
    if folder is not None:
        load_checkpoint(module, folder)
        return module
    whole = None
    if get_tp_size() > 1:
        with alone():
            whole = build(device=torch.device("meta"))
    random_weights(module, torch.Generator(device).manual_seed(_SEED), model.config.initializer_range, whole)
    return module


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not one that torch knows") from error


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}")
    return found


def _checkpoint_folder(model: Model) -> Path:
    """Where a model's safetensors lie, downloaded if need be."""
    if model.name in bundled_models():
        raise UnknownModel(f"{model.name} comes as a config alone: give a folder or a hub id, or take random weights")
    path = Path(model.name)
    if path.exists():
        return path if path.is_dir() else path.parent
    try:
        return Path(snapshot_download(model.name, allow_patterns=["*.safetensors", "*.safetensors.index.json"]))
    except Exception as error:  # the HTTP client, and so its exceptions, depends on huggingface_hub's version
        reason = " ".join(str(error).split())[:200]
        raise UnknownModel(f"the weights of {model.name} cannot be downloaded: {reason}") from error
