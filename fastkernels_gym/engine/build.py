"""An L4 model with its parameters on meta, and parameters bound to memory that someone else owns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary


@contextmanager
def born_on_meta() -> Iterator[None]:
    """Within it every parameter that a module registers goes to meta; buffers and other tensors stay real."""
    register = nn.Module.register_parameter
    # One parameter registered by two modules stays one; the real one is freed as soon as its constructor drops it.
    born = WeakIdKeyDictionary()

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            if param not in born:
                born[param] = _like(param, param.to("meta"))
            module._parameters[name] = born[param]

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build_model(
    config: Any,
    model_class: type[nn.Module],
    *,
    device: torch.device,
    dtype: torch.dtype,
    num_layers: int | None = None,
) -> nn.Module:
    """Builds a model whose parameters wait on meta to be bound.

    Args:
        config: the model's.
        model_class: an L4 operator.
        device: where buffers live.
        dtype: the default dtype, which parameters take.
        num_layers: a depth other than the config's.

    Returns:
        The model in evaluation mode, its parameters frozen.
    """
    if num_layers is not None and num_layers != config.num_hidden_layers:
        config = copy.deepcopy(config)
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:num_layers]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), born_on_meta():
            model = model_class(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def bind_parameters(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts given tensors in the place of a model's parameters; loaders and ties stay.

    Args:
        model: any module.
        tensors: one for each of `named_parameters(remove_duplicate=False)`; tied parameters are given the same one.

    Raises:
        ValueError: naming the first parameter that is missing, unknown or of another shape or dtype.
    """
    slots = {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, param in module._parameters.items()
        if param is not None
    }
    for name in sorted(slots.keys() ^ tensors.keys()):
        raise ValueError(f"parameter {name!r} is {'not given' if name in slots else 'not in the model'}")
    bound: dict[tuple[int, int], nn.Parameter] = {}
    for name, (module, attribute) in slots.items():
        old, tensor = module._parameters[attribute], tensors[name]
        assert old is not None
        if (old.shape, old.dtype) != (tensor.shape, tensor.dtype):
            given, expected = [*tensor.shape, tensor.dtype], [*old.shape, old.dtype]
            raise ValueError(f"parameter {name!r} is {given}, expected {expected}")
        # Keyed by both, so that a tie is kept where model and memory agree on it.
        key = (id(old), tensor.data_ptr())
        module._parameters[attribute] = bound.setdefault(key, _like(old, tensor))


def materialise(model: nn.Module, device: torch.device) -> None:
    """Gives every parameter uninitialised memory of its own on `device`."""
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    fresh = {tied[0]: torch.empty_like(model.get_parameter(tied[0]), device=device) for tied in names.values()}
    bind_parameters(model, {name: fresh[tied[0]] for tied in names.values() for name in tied})


def _like(old: nn.Parameter, tensor: torch.Tensor) -> nn.Parameter:
    """A parameter over `tensor` with the old one's attributes."""
    new = nn.Parameter(tensor, requires_grad=False)
    new.__dict__.update(old.__dict__)
    return new
