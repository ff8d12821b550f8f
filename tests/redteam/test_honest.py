"""Kernels that compute their operator on every valid input are accepted, however they do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from catalogue import Submission, honest, submit
from marks import marks_of

import fastkernels_gym as fk
from fastkernels_gym.results import Verdict


def parameters() -> list[Any]:
    return [pytest.param(one, id=one.name, marks=marks_of(one)) for one in honest()]


@pytest.mark.parametrize("kernel", parameters())
def test_an_honest_kernel_is_accepted(
    kernel: Submission, evaluator_for: Callable[[Submission], fk.Evaluator], note: Callable[..., None]
) -> None:
    (result,) = submit(evaluator_for(kernel), kernel)
    note(kernel, [result], [] if result.verdict is Verdict.OK else ["rejected"])
    assert result.verdict is Verdict.OK, result.feedback
    assert result.reward > 0 and result.correctness is not None
    assert result.correctness.rms_error_ratio <= 2 and result.correctness.max_error_ratio <= 4
