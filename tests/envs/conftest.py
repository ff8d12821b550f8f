"""Candidates for SiluAndMul that the environment's tests hand in, and evaluations to hand back."""

from concurrent.futures import Future
from typing import NamedTuple

import pytest

from fastkernels_gym import EvalRequest, Evaluation, Verdict
from fastkernels_gym.results import Correctness, EndToEnd, Rung, Seconds

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
        slow=_GOOD.replace("gate, up =", "for _ in range(20):\n            x = x * 1.0\n        gate, up ="),
        wrong=_GOOD.replace(".mul_(up)", ".mul_(up) + 1.0"),
    )


class Replay:
    """An evaluator that gives back an evaluation made elsewhere."""

    device = "cpu"

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def submit(self, request: EvalRequest) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        future.set_result(self.evaluation)
        return future


@pytest.fixture
def twice_as_fast(kernels: Kernels) -> Replay:
    """The operator in half its time, the model 1.25 times as fast."""
    return Replay(
        Evaluation(
            kernels.task,
            Verdict.OK,
            e2e=EndToEnd(1.25, (1.2, 1.3), 100.0, 80.0, (4, 4)),
            ladder=(Rung(2.0, (1.9, 2.1), "L1/silu_and_mul", 10.0, 5.0),),
            correctness=Correctness(8, 1.1, 1.0, "zeros"),
            seconds=Seconds(total=9.5),
        )
    )


@pytest.fixture
def lost(kernels: Kernels) -> Replay:
    """The machine lost the evaluation."""
    return Replay(Evaluation(kernels.task, Verdict.INFRA_ERROR, feedback="the machine lost the evaluation"))
