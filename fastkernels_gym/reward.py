"""What an evaluation is worth: pure functions of what was measured.

| kind | pays | the baseline itself earns |
|---|---|---|
| `e2e` | the full model's speedup | 1.0 |
| `op` | the replaced operator's speedup | 1.0 |
| `lower_bound` | the lower end of the full model's 95 % confidence interval | 1.0 |
| `log_e2e` | the natural logarithm of the full model's speedup | 0.0 |
| `headroom` | the share of the possible end-to-end gain that was won | 0.0 |

A candidate that is not correct earns `failure`. A correct one whose timing cannot be trusted (`stable` is false, or the
verdict is `timing_inconsistent` or `beyond_roofline`) earns at most what the baseline does. `infra_error` says nothing
about the candidate and earns 0.0.
"""

from __future__ import annotations

import math

from fastkernels_gym.errors import UnmeasuredReward
from fastkernels_gym.results import EndToEnd, Evaluation, RewardKind, Verdict

_BASELINE_EARNS: dict[RewardKind, float] = {"e2e": 1.0, "op": 1.0, "lower_bound": 1.0, "log_e2e": 0.0, "headroom": 0.0}


def reward(evaluation: Evaluation, kind: RewardKind, *, failure: float = 0.0) -> float:
    """The reward of one evaluation.

    Args:
        evaluation: what was measured.
        kind: one of the kinds in this module's table.
        failure: what a candidate earns that is not correct.

    Raises:
        UnmeasuredReward: if the evaluation is `ok` but lacks what `kind` is computed from.
    """
    if evaluation.verdict is Verdict.INFRA_ERROR:
        return 0.0
    if not evaluation.correct:
        return float(failure)
    trusted = evaluation.verdict is Verdict.OK
    try:
        value = _PAID[kind](evaluation)
    except UnmeasuredReward:
        # A quarantined evaluation may end before every level is measured; it has no claim on a reward.
        if trusted:
            raise
        return float(failure)
    return value if trusted and evaluation.stable else min(value, _BASELINE_EARNS[kind])


def _end_to_end(evaluation: Evaluation) -> EndToEnd:
    if evaluation.e2e is None:
        raise UnmeasuredReward(f"{evaluation.task} was not measured end to end: evaluate it with measure 'e2e'")
    return evaluation.e2e


def _e2e(evaluation: Evaluation) -> float:
    return _end_to_end(evaluation).speedup


def _op(evaluation: Evaluation) -> float:
    if evaluation.op is None:
        raise UnmeasuredReward(f"{evaluation.task} has no timing of its operator")
    return evaluation.op.speedup


def _log_e2e(evaluation: Evaluation) -> float:
    return math.log(_end_to_end(evaluation).speedup)


def _lower_bound(evaluation: Evaluation) -> float:
    return _end_to_end(evaluation).ci95[0]


def _headroom(evaluation: Evaluation) -> float:
    """(T_base - T_cand) / (T_base - T_base with this operator at its roofline), over the whole workload."""
    e2e = _end_to_end(evaluation)
    rung = evaluation.ladder[0] if evaluation.ladder else None
    if rung is None or rung.roofline_us is None:
        raise UnmeasuredReward(f"{evaluation.task} has no roofline of its operator, which reward 'headroom' needs")
    possible_ms = (rung.baseline_us - rung.roofline_us) / 1000.0
    if possible_ms <= 0.0:  # the baseline is at its roofline already: there is nothing to win
        return 0.0
    return (e2e.baseline_ms - e2e.candidate_ms) / possible_ms


_PAID = {"e2e": _e2e, "op": _op, "log_e2e": _log_e2e, "headroom": _headroom, "lower_bound": _lower_bound}
