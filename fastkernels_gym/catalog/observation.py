"""Observations: the reference that an agent reads, and the shapes that the model calls it with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastkernels_gym.catalog.cases import Case
from fastkernels_gym.catalog.operators import OperatorInfo
from fastkernels_gym.catalog.reference import reference_source


@dataclass(frozen=True, slots=True)
class Observation:
    """What an agent is shown of a task.

    Args:
        task: the task's id.
        reference: a module that defines the operator with its reference implementation; imported operators are
            described by their signatures, in comments.
        shapes: JSON text of `[{phase, n, count, init, args: [{name, shape, dtype, stride} | {name, value}]}]`:
            `n` passes of the phase, `count` calls a pass.
    """

    task: str
    reference: str
    shapes: str


def observe(task_id: str, operator: OperatorInfo, cases: Sequence[Case], *, show_baseline: bool) -> Observation:
    """The observation of an operator called as in `cases`."""
    shapes = json.dumps([case.to_json() for case in cases])
    return Observation(task_id, reference_source(operator, show_baseline=show_baseline), shapes)
