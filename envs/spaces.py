"""A Gymnasium space of source texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space

_SILU_AND_MUL = """\
import torch
from torch import nn
from torch.nn import functional as F


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
"""

_RMS_NORM = """\
import torch
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6, var_hidden_size=None, has_weight=True, dtype=None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype)) if has_weight else None

    def forward(self, x, residual=None):
        if residual is not None:
            x = residual = x + residual
        out = torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return out if residual is None else (out, residual)
"""

_LINEAR = """\
from torch import nn
from torch.nn import functional as F


class Linear(nn.Module):
    def forward(self, x, weight, bias=None):
        return F.linear(x, weight, bias)
"""

#: What `sample` draws from: valid kernels of common operators, and a reply as a language model writes it.
SAMPLES = (
    _SILU_AND_MUL,
    _RMS_NORM,
    _LINEAR,
    f"The gate and the product in one pass:\n\n```python\n{_SILU_AND_MUL}```\n",
)


class Source(Space[str]):
    """Texts of at most `max_bytes` bytes of UTF-8.

    `gymnasium.spaces.Text` cannot hold code: it needs a list of allowed characters, and its samples are noise.

    Args:
        max_bytes: the bound on a text's UTF-8 length.
        samples: what `sample` draws from, uniformly; each within the bound.
        seed: seeds `sample`.
    """

    def __init__(
        self, max_bytes: int, samples: Sequence[str] = SAMPLES, seed: int | np.random.Generator | None = None
    ) -> None:
        if max_bytes < 0:
            raise ValueError(f"a bound is not negative: {max_bytes}")
        self.max_bytes = int(max_bytes)
        self.samples = tuple(samples)
        super().__init__(shape=None, dtype=None, seed=seed)
        if not self.samples or not all(map(self.contains, self.samples)):
            raise ValueError(f"samples are one or more texts of at most {max_bytes} bytes")

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Draws one of `samples`.

        Raises:
            ValueError: if given a mask or probabilities, which texts do not have.
        """
        if mask is not None or probability is not None:
            raise ValueError("Source takes neither mask nor probability")
        return self.samples[int(self.np_random.integers(len(self.samples)))]

    def contains(self, x: Any) -> bool:
        if not isinstance(x, str):
            return False
        try:
            return len(x.encode()) <= self.max_bytes
        except UnicodeEncodeError:  # a lone surrogate is no text
            return False

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: Iterable[Any]) -> list[str]:
        return [str(text) for text in sample_n]

    def __repr__(self) -> str:
        return f"Source({self.max_bytes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and (self.max_bytes, self.samples) == (other.max_bytes, other.samples)

    def __hash__(self) -> int:
        return hash((self.max_bytes, self.samples))
