"""Triton kernels whose launches cost the host half of what Triton's own do.

A prefill's kernels are launched one by one, and those of a small model end before the next one is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction


def jit(function: Callable[..., None]) -> Any:
    """`triton.jit`, for kernels that are given all their arguments by position."""
    return triton.jit(function) if triton.knobs.runtime.interpret else Kernel(function)


class Kernel(JITFunction):
    """Finds what it has compiled by its own look at the arguments; Triton compiles.

    Args:
        function: the kernel's source.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)
        self._constant = [parameter.is_constexpr for parameter in self.params]
        self._compiled: dict[tuple[Any, ...], CompiledKernel] = {}

    def run(self, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if warmup or callable(grid) or len(args) != len(self._constant):
            return super().run(*args, grid=grid, warmup=warmup, **options)
        key = (torch.cuda.current_device(), *options.items(), *self.specialization(args))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = super().run(*args, grid=grid, warmup=False, **options)
        else:
            compiled[(*grid, 1, 1)[:3]](*args)
        return compiled

    def specialization(self, args: Sequence[Any]) -> list[Any]:
        """All of the arguments that Triton would compile anew for: types, alignments, widths, ones, constants."""
        found: list[Any] = []
        for arg, constant in zip(args, self._constant, strict=True):
            if constant:
                found.append(arg)
            elif isinstance(arg, torch.Tensor):
                found.append((arg.dtype, arg.data_ptr() % 16 == 0))
            elif type(arg) is int:
                found.append((arg == 1, arg % 16 == 0, -(2**31) <= arg < 2**31, arg < 2**63))
            else:
                found.append(type(arg))
        return found
