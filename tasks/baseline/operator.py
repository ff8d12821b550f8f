"""The base of every operator: a reference, a baseline, and the choice between them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from .forward_context import in_reference_mode


class Operator(nn.Module):
    """A module with two implementations, as vLLM's CustomOp has.

    `forward_native` is the specification in plain PyTorch; `forward_cuda` the implementation to beat. `forward` takes
    the latter for tensors on a GPU and the former everywhere else and in reference mode.

    Attributes:
        mutates: names of arguments that it must write; they are judged like outputs.
        donates: names of arguments that it may overwrite, since its callers never read them again.
        spreads_nonfinite: whether the reference lets a NaN or infinity reach outputs that do not depend on it, as one
            that multiplies what it masks by zero does: where such values belong is then for no one to say.
    """

    mutates: ClassVar[tuple[str, ...]] = ()
    donates: ClassVar[tuple[str, ...]] = ()
    spreads_nonfinite: ClassVar[bool] = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):  # not as an expression: this runs before every launch
            if isinstance(argument, torch.Tensor):
                if argument.is_cuda and not in_reference_mode():
                    return self.forward_cuda(*args, **kwargs)
                break
        return self.forward_native(*args, **kwargs)

    def forward_native(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no reference")

    def forward_cuda(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward_native(*args, **kwargs)
