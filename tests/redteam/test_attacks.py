"""Every known attack: nothing is paid, the referee lives, nothing is left, and the next kernel is judged right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from catalogue import NO_CANDIDATE, Submission, Traces, attacks, complaints, find, settled, submit
from marks import marks_of

import fastkernels_gym as fk
from fastkernels_gym.results import Verdict

ROWS = range(1, 49)
# Attacks that aim at more than their own evaluation: the one after them is judged too.
AIM_FURTHER = {29, 30, 32, 38, 40, 41, 43, 44, 45}


def parameters() -> list[Any]:
    return [pytest.param(attack, id=attack.name, marks=marks_of(attack)) for attack in attacks()]


def test_every_row_has_an_attack() -> None:
    assert {attack.row for attack in attacks()} == {*ROWS}


@pytest.mark.parametrize("attack", parameters())
def test_an_attack_is_contained(
    attack: Submission, evaluator_for: Callable[[Submission], fk.Evaluator], note: Callable[..., None]
) -> None:
    if attack.source is None:
        note(attack, [], [])
        assert attack.expect == {NO_CANDIDATE}
        return
    evaluator = evaluator_for(attack)
    before = Traces.take()
    evaluations = submit(evaluator, attack)
    wrong = [complaint for evaluation in evaluations for complaint in complaints(attack, evaluation)]
    wrong += settled(before)
    if attack.row in AIM_FURTHER and not attack.hurried:
        (after,) = submit(evaluator, find("reference"))
        wrong += [] if after.verdict is Verdict.OK else [f"the next honest kernel: {after.verdict}"]
    last = evaluations[-1]
    note(attack, evaluations, wrong)
    assert not wrong, f"{wrong} {last.ladder[:1]} {last.feedback[:2000]}"
