"""What a run amounts to: the best turn of each sample, means over samples, sums over the tasks of a level."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from fastkernels_gym.evals.folder import Rollout
from fastkernels_gym.results import Estimate, Evaluation, Verdict

FAST_P = (0.0, 1.0, 1.5, 2.0)
FAST_P_E2E = (1.0, 1.01, 1.05)


@dataclass(frozen=True, slots=True)
class LevelMetrics:
    """Metrics of the tasks of one level.

    Args:
        level: `L1` to `L4`, or `all`.
        tasks: tasks of which a sample has ended.
        correct: their share that is solved correctly; a task's is the mean over its samples.
        fast_p: for each p, the share whose operator speedup is above p: its 95 % interval is (L4: end to end).
        fast_p_e2e: for each p, the share whose end-to-end speedup is above p: its 95 % interval is.
        op_speedup: geometric mean over the correct samples; None where none was measured.
        e2e_speedup: geometric mean over the correct samples; None where none was measured.
    """

    level: str
    tasks: int
    correct: float
    fast_p: dict[float, float]
    fast_p_e2e: dict[float, float]
    op_speedup: float | None
    e2e_speedup: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of a run.

    Args:
        levels: one for each level that has tasks, lowest first, then `all`.
        turns: turns that ended.
        lost: turns that infrastructure failed; they count nowhere else.
        verdicts: how often each verdict was reached.
        tokens: prompt and completion tokens.
        missing: samples that were asked for and have not ended.
    """

    levels: tuple[LevelMetrics, ...]
    turns: int
    lost: int
    verdicts: dict[str, int]
    tokens: int
    missing: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(rollouts: Iterable[Rollout], *, missing: int = 0) -> Summary:
    """The metrics of turns, each given once."""
    turns = list(rollouts)
    kept = [rollout for rollout in turns if not rollout.lost]
    samples: defaultdict[tuple[str, int], list[Rollout]] = defaultdict(list)
    for rollout in kept:
        samples[rollout.task, rollout.sample].append(rollout)
    tasks: defaultdict[str, list[Evaluation | None]] = defaultdict(list)
    for (task, _), attempts in sorted(samples.items()):
        tasks[task].append(best(attempts))
    names = sorted({_level(task) for task in tasks})
    levels = [_metrics(name, [found for task, found in tasks.items() if _level(task) == name]) for name in names]
    if tasks:
        levels.append(_metrics("all", list(tasks.values())))
    verdicts: defaultdict[str, int] = defaultdict(int)
    for rollout in kept:
        verdicts["no_candidate" if rollout.evaluation is None else str(rollout.evaluation.verdict)] += 1
    tokens = sum(rollout.usage.prompt_tokens + rollout.usage.completion_tokens for rollout in turns)
    return Summary(tuple(levels), len(turns), len(turns) - len(kept), dict(sorted(verdicts.items())), tokens, missing)


def best(attempts: Sequence[Rollout]) -> Evaluation | None:
    """The best evaluation of a sample's turns: correct before incorrect, then by reward; the first of equals."""
    found = [rollout.evaluation for rollout in attempts if rollout.evaluation is not None]
    return max(found, key=lambda evaluation: (evaluation.correct is True, evaluation.reward), default=None)


def _metrics(level: str, tasks: Sequence[Sequence[Evaluation | None]]) -> LevelMetrics:
    correct = [found for samples in tasks for found in samples if found is not None and found.correct]
    return LevelMetrics(
        level,
        len(tasks),
        _share(tasks, lambda found: True),
        {p: _share(tasks, partial(_faster, p)) for p in FAST_P},
        {p: _share(tasks, partial(_faster_e2e, p)) for p in FAST_P_E2E},
        _geometric_mean([_speedup(found, _operator(found)) for found in correct if _operator(found)]),
        _geometric_mean([_speedup(found, found.e2e) for found in correct if found.e2e]),
    )


def _share(tasks: Sequence[Sequence[Evaluation | None]], holds: Callable[[Evaluation], bool]) -> float:
    """The mean over tasks of the mean over samples of whether a sample is correct and `holds`."""
    shares = [
        sum(bool(found and found.correct and holds(found)) for found in samples) / len(samples) for samples in tasks
    ]
    return sum(shares) / len(shares)


def _faster(p: float, evaluation: Evaluation) -> bool:
    return p == 0 or _low(evaluation, _operator(evaluation)) > p


def _faster_e2e(p: float, evaluation: Evaluation) -> bool:
    return _low(evaluation, evaluation.e2e) > p


def _operator(evaluation: Evaluation) -> Estimate | None:
    """What counts as an operator's speedup; a model's own is the end-to-end one."""
    return evaluation.e2e if evaluation.task.startswith("L4/") else evaluation.op


def _trusted(evaluation: Evaluation) -> bool:
    return evaluation.verdict is Verdict.OK and evaluation.stable


def _low(evaluation: Evaluation, measured: Estimate | None) -> float:
    """The interval's lower end; a timing that cannot be trusted proves no speedup, as in rewards."""
    low = measured.ci95[0] if measured else 0.0
    return low if _trusted(evaluation) else min(low, 1.0)


def _speedup(evaluation: Evaluation, measured: Estimate | None) -> float:
    speedup = measured.speedup if measured else 1.0
    return speedup if _trusted(evaluation) else min(speedup, 1.0)


def _geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _level(task: str) -> str:
    return task.partition("/")[0]
