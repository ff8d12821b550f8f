"""Ladders: the operators that a replacement reaches, and how many of its calls each of them makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastkernels_gym.catalog.operators import OperatorInfo, find_operator
from fastkernels_gym.catalog.tasks import Task


@dataclass(frozen=True, slots=True)
class Rung:
    """An operator that uses a task's operator.

    Args:
        operator: the user.
        calls: calls of the task's operator inside one pass's calls of this one, by phase.
        share: the same as a part of all calls of the task's operator in that phase, 0 to 1.
    """

    operator: OperatorInfo
    calls: Mapping[str, int] = field(hash=False)
    share: Mapping[str, float] = field(hash=False)


def rungs(task: Task) -> tuple[Rung, ...]:
    """The task's ladder and, on top, its model; empty for a model itself."""
    if task.level == 4:
        return ()
    totals = {found.phase.name: found.calls(task.operator.id) for found in task.traces}
    found = []
    for user in task.ladder:
        calls = {found.phase.name: found.nested.get((user.id, task.operator.id), 0) for found in task.traces}
        found.append(_rung(user, calls, totals))
    return (*found, _rung(find_operator(task.model.l4), totals, totals))


def _rung(operator: OperatorInfo, calls: Mapping[str, int], totals: Mapping[str, int]) -> Rung:
    share = {phase: calls[phase] / total if total else 0.0 for phase, total in totals.items()}
    return Rung(operator, dict(calls), share)
