"""Kernels that compute their operator on every valid input are accepted, however they do it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from catalogue import Submission, honest, submit

import fastkernels_gym as fk
from fastkernels_gym.results import Verdict


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(one, id=one.name, marks=[pytest.mark.gpu] if one.device == "cuda" else [])
        for one in honest()
        if not one.slow
    ],
)
def test_an_honest_kernel_is_accepted(kernel: Submission, evaluator_for: Callable[[Submission], fk.Evaluator]) -> None:
    (result,) = submit(evaluator_for(kernel), kernel)
    assert result.verdict is Verdict.OK, result.feedback
    assert result.reward > 0 and result.correctness is not None
    assert result.correctness.rms_error_ratio <= 2 and result.correctness.max_error_ratio <= 4
