"""Models: Hugging Face configs, and the L4 operator that runs each."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from transformers import AutoConfig, PretrainedConfig
from transformers import logging as transformers_logging

from fastkernels_gym.catalog.operators import model_operators
from fastkernels_gym.errors import UnknownModel, UnsupportedModel

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.json)")
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_LIMITS = {
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "vocab_size": 1 << 23,
    "max_position_embeddings": 1 << 25,
}
_EXPERTS = (
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
)  # where a config has them


@dataclass(frozen=True, slots=True)
class Model:
    """A config and what it decides.

    Args:
        name: the name it was asked for: bundled name, path or hub id.
        config: the config; treat it as constant.
        sha256: hash of the config's bytes, hexadecimal.
        dtype: of parameters and activations; bfloat16 where the config names none, as vLLM serves those.
        l4: id of the operator that runs it.
    """

    name: str
    config: PretrainedConfig = field(compare=False, repr=False)
    sha256: str
    dtype: torch.dtype
    l4: str


def bundled_models() -> list[str]:
    """Names of the configs that come with the package."""
    folder = files("fastkernels_gym.tasks").joinpath("models")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_model_config(name: str) -> Model:
    """The model of a bundled name, else of an existing file or folder, else of a hub id.

    Raises:
        UnknownModel: if no config is found, or it cannot be read or makes no sense.
        UnsupportedModel: if no L4 operator runs its architecture.
    """
    return _model(name, _read(name))


@cache
def _model(name: str, text: bytes) -> Model:
    # Cached by content: a file that changes between two calls is a different model.
    config = _parse(name, text)
    architectures = config.architectures if isinstance(config.architectures, list) else []
    supported = model_operators()
    l4 = next((supported[str(architecture)] for architecture in architectures if str(architecture) in supported), None)
    if l4 is None:
        named = ", ".join(map(str, architectures)) or "no architecture"
        raise UnsupportedModel(f"{name}: its config names {named}; supported are {', '.join(supported)}")
    _check_sizes(name, config)
    dtype = torch.bfloat16 if config.dtype is None else config.dtype
    if dtype not in _DTYPES:
        raise UnsupportedModel(f"{name}: dtype {dtype} is not one of {', '.join(map(str, _DTYPES))}")
    return Model(name, config, hashlib.sha256(text).hexdigest(), dtype, l4.id)


def _read(name: str) -> bytes:
    """The bytes of the config that a name stands for."""
    if name in bundled_models():
        return files("fastkernels_gym.tasks").joinpath("models", f"{name}.json").read_bytes()
    try:
        path = Path(name)
        if name and path.exists():
            return (path / "config.json" if path.is_dir() else path).read_bytes()
        if _HUB_ID.fullmatch(name):
            return _download(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UnknownModel(f"model {name!r} cannot be read ({_clip(reason)}); {_available(name)}") from error
    raise UnknownModel(f"no model {name!r}: neither bundled, nor a path, nor a hub id; {_available(name)}")


def _download(hub_id: str) -> Path:
    """The config of a hub id: what was downloaded before, so that a task stays what it was, else the hub's."""
    cached = try_to_load_from_cache(hub_id, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, "config.json"))  # fails at once where a download would retry for long
    except Exception as error:  # the HTTP client, and so its exceptions, depends on huggingface_hub's version
        raise OSError(error) from error
    return Path(hf_hub_download(hub_id, "config.json"))


def _parse(name: str, text: bytes) -> PretrainedConfig:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnknownModel(f"{name}: its config is not JSON: {_clip(str(error))}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UnknownModel(f"{name}: its config is not a JSON object with a model_type")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it has advice for the authors of published configs
    try:
        config = AutoConfig.for_model(**values)
    except Exception as error:  # transformers raises whatever type a nonsense value happens to hit first
        detail = _clip(" ".join(str(error).split()))
        raise UnknownModel(f"{name}: transformers cannot read its config: {type(error).__name__}: {detail}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if not isinstance(config, PretrainedConfig):
        raise UnknownModel(f"{name}: transformers reads no model config from it")
    return config


def _check_sizes(name: str, config: PretrainedConfig) -> None:
    """Sizes that no real model has would exhaust the machine, or fail far from their cause."""
    for key, limit in _LIMITS.items():
        value = getattr(config, key, None)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            raise UnknownModel(f"{name}: its config's {key} is {_clip(repr(value))}, not an integer from 1 to {limit}")
    for key in _EXPERTS:
        value = getattr(config, key, None)
        if value is not None and (type(value) is not int or not 0 < value <= _LIMITS["intermediate_size"]):
            raise UnknownModel(f"{name}: its config's {key} is {_clip(repr(value))}, not a positive integer")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise UnknownModel(f"{name}: {heads} attention heads cannot share {kv_heads} key-value heads")


def _available(name: str) -> str:
    bundled = bundled_models()
    close = get_close_matches(name.rsplit("/")[-1].lower(), bundled, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}bundled are {', '.join(bundled)}"


def _clip(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
