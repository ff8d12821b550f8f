"""What pytest has to know about a submission before it runs."""

from __future__ import annotations

import pytest
from catalogue import Submission


def marks_of(one: Submission) -> list[pytest.MarkDecorator]:
    """What it needs, whether it is known to fail, and which others share its evaluator: one start of it is enough."""
    marks = [pytest.mark.gpu] if one.device == "cuda" else []
    if one.strict:
        marks.append(pytest.mark.xdist_group("strict"))
    if one.open:
        marks.append(pytest.mark.xfail(strict=True, raises=AssertionError, reason=one.open))
    return marks
