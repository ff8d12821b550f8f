"""Puts operators of ours into vLLM, without edits: the methods fit because the signatures and the attributes do.

In a process that has vLLM, before a model is built:

    from port_to_vllm import register
    register(("RMSNorm", "SiluAndMul"))

Run as a script it shows the same on the shape of vLLM's class, which needs neither vLLM nor a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module

import torch
from torch import nn

from fastkernels_gym.tasks.baseline.L1.gelu_and_mul import GeluAndMul
from fastkernels_gym.tasks.baseline.L1.gemma_rms_norm import GemmaRMSNorm
from fastkernels_gym.tasks.baseline.L1.rms_norm import RMSNorm
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul

OPERATORS: dict[str, tuple[str, type[nn.Module]]] = {
    "RMSNorm": ("vllm.model_executor.layers.layernorm", RMSNorm),
    "GemmaRMSNorm": ("vllm.model_executor.layers.layernorm", GemmaRMSNorm),
    "SiluAndMul": ("vllm.model_executor.layers.activation", SiluAndMul),
    "GeluAndMul": ("vllm.model_executor.layers.activation", GeluAndMul),
}


def ported(vllm_class: type[nn.Module], operator: type[nn.Module]) -> type[nn.Module]:
    """VLLM's class, its constructor and its weights, with an operator's implementations.

    Raises:
        TypeError: if the operator cannot be called as vLLM's class is.
    """
    methods = {name: getattr(operator, name) for name in ("forward_native", "forward_cuda")}
    for name, method in methods.items():
        theirs, ours = (list(inspect.signature(m).parameters) for m in (getattr(vllm_class, name), method))
        if ours[1:] != [parameter for parameter in theirs if parameter != "self"]:
            raise TypeError(f"{operator.__name__}.{name} takes {ours[1:]}, {vllm_class.__name__}'s takes {theirs}")
    return type(f"Ported{vllm_class.__name__}", (vllm_class,), methods)


def register(names: Iterable[str] = OPERATORS) -> None:
    """Makes vLLM build ours wherever one of its models asks for its own, through its registry for other trees.

    Raises:
        ImportError: if vLLM is not installed.
    """
    for name in names:
        module, operator = OPERATORS[name]
        vllm_class = getattr(import_module(module), name)
        vllm_class.register_oot(ported(vllm_class, operator))


class VllmRMSNorm(nn.Module):
    """What vLLM's RMSNorm is made of: its constructor's parameters and the attributes that it leaves."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        var_hidden_size: int | None = None,
        has_weight: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size, self.variance_epsilon, self.has_weight = hidden_size, eps, has_weight
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype), requires_grad=False)

    def forward_native(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError("vLLM's implementation")

    forward_cuda = forward_native


def main() -> None:
    norm = ported(VllmRMSNorm, RMSNorm)(64, eps=1e-5)
    norm.weight.data.normal_(1.0, 0.1)
    x, residual = torch.randn(3, 64), torch.randn(3, 64)
    out, total = norm.forward_native(x, residual)
    expected = nn.functional.rms_norm(x + residual, (64,), norm.weight, 1e-5)
    print(f"{type(norm).__name__} on vLLM's constructor and weight: off by {(out - expected).abs().max():.1e}")
    assert torch.equal(total, x + residual)


if __name__ == "__main__":
    main()
