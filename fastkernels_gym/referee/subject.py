"""The model under test, as the referee has it: private weights, and the oracle that runs its reference in float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastkernels_gym.catalog.models import Model
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.engine.build import bind_parameters, build_model
from fastkernels_gym.engine.weights import fill_parameter
from fastkernels_gym.player.protocol import TensorRef
from fastkernels_gym.referee.arena import Region
from fastkernels_gym.tasks.baseline.forward_context import reference_mode


class Subject:
    """One model at one depth, with random weights of its own.

    Args:
        model: which.
        device: where it runs.
        num_layers: its depth here.
        generator: the source of the weights, on `device`.
    """

    def __init__(self, model: Model, device: torch.device, num_layers: int, generator: torch.Generator) -> None:
        self.model, self.device, self.num_layers = model, device, num_layers
        self.operator = find_operator(model.l4)
        self.module = build_unbound(model, device, num_layers)
        self.weights = Region("weights", device)
        self.refs: dict[str, TensorRef] = {}
        placed: dict[int, TensorRef] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if id(parameter) not in placed:
                placed[id(parameter)] = self.weights.reserve(parameter.shape, parameter.stride(), parameter.dtype)
            self.refs[name] = placed[id(parameter)]
        bind_parameters(self.module, {name: self.weights.tensor(ref) for name, ref in self.refs.items()})
        for name, parameter in self.module.named_parameters():
            fill_parameter(name, parameter.data, generator, model.config.initializer_range)
        self.scratch: torch.Tensor | None = None
        if device.type == "cuda":
            cache = torch.cuda.get_device_properties(device).L2_cache_size
            self.scratch = torch.empty(2 * cache, dtype=torch.uint8, device=device)
        self._by_pointer = {self.weights.tensor(ref).data_ptr(): ref for ref in self.refs.values()}

    def weight_at(self, tensor: torch.Tensor) -> TensorRef | None:
        """The weight that `tensor` is, where it is one, whole."""
        ref = self._by_pointer.get(tensor.data_ptr())
        return ref if ref is not None and ref.shape == tuple(tensor.shape) else None

    def writes_kv(self, path: str) -> bool:
        """Whether a submodule stores keys and values."""
        return any("key_cache" in getattr(part, "mutates", ()) for part in self.module.get_submodule(path).modules())

    @contextmanager
    def oracle(self, path: str) -> Iterator[None]:
        """Within it every operator runs its reference, parameters and buffers below `path` widened to float64."""
        hooks = []
        for module in self.module.get_submodule(path).modules():
            if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
                widened = _Widened()
                hooks.append(module.register_forward_pre_hook(widened.enter))
                hooks.append(module.register_forward_hook(widened.leave, always_call=True))
        try:
            with reference_mode():
                yield
        finally:
            for hook in hooks:
                hook.remove()


def build_unbound(model: Model, device: torch.device, num_layers: int) -> nn.Module:
    """The model at a depth, its parameters on meta."""
    operator = find_operator(model.l4)
    l4 = getattr(importlib.import_module(operator.module), operator.class_name)
    return build_model(model.config, l4, device=device, dtype=model.dtype, num_layers=num_layers)


class _Widened:
    """Swaps one module's own tensors for float64 copies while its forward runs."""

    def __init__(self) -> None:
        self._kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def enter(self, module: nn.Module, _: Any) -> None:
        kept = (dict(module._parameters), dict(module._buffers))
        self._kept.append(kept)
        groups: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in groups:
            for name, tensor in held.items():
                if tensor is not None and tensor.is_floating_point():
                    wide = tensor.double()
                    held[name] = nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

    def leave(self, module: nn.Module, _: Any, __: Any) -> None:
        parameters, buffers = self._kept.pop()
        module._parameters.update(parameters)
        module._buffers.update(buffers)
