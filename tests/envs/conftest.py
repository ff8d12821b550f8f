"""Candidates for SiluAndMul that the environment's tests hand in."""

from typing import NamedTuple

import pytest

_GOOD = """\
import torch
from torch import nn


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)
"""


class Kernels(NamedTuple):
    """One task and a fast, a slow and a wrong candidate for it."""

    task: str
    good: str
    slow: str
    wrong: str


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    return Kernels(
        task="L1/silu_and_mul@tiny-llama",
        good=_GOOD,
        slow=_GOOD.replace("gate, up =", "for _ in range(200):\n            x = x * 1.0\n        gate, up ="),
        wrong=_GOOD.replace(".mul_(up)", ".mul_(up) + 1.0"),
    )
