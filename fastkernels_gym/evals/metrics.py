"""What a run amounts to: over all its tasks, and by level, model and operator family.

Every mean is over tasks, a task's own value being the mean over its samples, so that each task weighs the same however
many samples of it have ended; 95 % intervals are bootstrapped over tasks.

| metric | of a task |
|---|---|
| fast_p | share of samples whose best kernel is correct and faster than p times: its interval's lower end is above p |
| fast_p@k | chance that one of k samples drawn without replacement is: 1 - C(n - c, k) / C(n, k) of n samples, c such |
| pass@k | fast_0@k |

fast_p is KernelBench's (arXiv:2502.10517), over all tasks and not over those solved; the estimator of "@k" is Codex's
(arXiv:2107.03374).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from fastkernels_gym.agent import Usage
from fastkernels_gym.catalog.ids import TaskId
from fastkernels_gym.evals.bootstrap import Mean, means
from fastkernels_gym.evals.rollout import Rollout
from fastkernels_gym.evals.tally import Outcome, Speedup, Tally
from fastkernels_gym.results import Measure

FAST_P = (0.0, 1.0, 1.5, 2.0)
FAST_P_E2E = (1.0, 1.01, 1.05)

Samples = Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of some of a run's tasks.

    Args:
        name: of the group: a level, a model, an operator family, or `all`.
        tasks: tasks of which a sample has ended.
        fast_p: by p, on the operator's speedup (L4: the model's); `fast_p[0]` is the share that is correct.
        fast_p_e2e: by p, on the model's speedup; empty if the run did not measure it.
        fast_p_at: by k, then p: fast_p@k for powers of two up to the samples that every task has.
        fast_p_e2e_at: the same on the model's speedup.
        op_speedup: geometric mean of the operator's speedup over correct samples.
        op_speedup_all: the same over all samples, a failure counting as 1x.
        e2e_speedup: geometric mean of the model's speedup over correct samples.
        e2e_speedup_all: the same over all samples, a failure counting as 1x.
        rungs: geometric mean speedup over correct samples at each level of the ladder, `L4` being the model.
        roofline: mean share of the operator's roofline that correct samples reach.
        baseline_roofline: the share that the baseline reaches beside them.
    """

    name: str
    tasks: int
    fast_p: dict[float, Mean]
    fast_p_e2e: dict[float, Mean]
    fast_p_at: dict[int, dict[float, Mean]]
    fast_p_e2e_at: dict[int, dict[float, Mean]]
    op_speedup: Mean | None
    op_speedup_all: Mean | None
    e2e_speedup: Mean | None
    e2e_speedup_all: Mean | None
    rungs: dict[str, Mean]
    roofline: Mean | None
    baseline_roofline: Mean | None

    @property
    def correct(self) -> Mean:
        """The share that is correct."""
        return self.fast_p[0.0]


@dataclass(frozen=True, slots=True)
class TurnMetrics:
    """Metrics of samples as they stood after a turn: the best kernel up to it counts.

    Args:
        turn: its number, from 0.
        correct: share of samples, over all tasks, that are correct.
        fast_1: share that is proven faster than the baseline.
        op_speedup_all: geometric mean of the operator's speedup, a failure counting as 1x.
        e2e_speedup_all: the same of the model's; None if the run did not measure it.
    """

    turn: int
    correct: Mean
    fast_1: Mean
    op_speedup_all: Mean
    e2e_speedup_all: Mean | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent; wall seconds of turns add up, though they overlap. `dollars` is None where no turn says."""

    tokens: float
    seconds: float
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of a run.

    Args:
        levels: one for each level that has tasks, lowest first, then `all`.
        models: one for each model.
        families: one for each operator family.
        by_turn: how samples improve from turn to turn.
        turns: turns that ended.
        lost: turns that infrastructure failed; they count nowhere else but in what was spent.
        verdicts: how often each verdict was reached.
        usage: tokens and requests by kind.
        spent: what the run cost.
        per_correct: what it cost a sample that has a correct kernel; None without any.
        missing: samples that were asked for and have not ended.
    """

    levels: tuple[Metrics, ...]
    models: tuple[Metrics, ...]
    families: tuple[Metrics, ...]
    by_turn: tuple[TurnMetrics, ...]
    turns: int
    lost: int
    verdicts: dict[str, int]
    usage: Usage
    spent: Cost
    per_correct: Cost | None
    missing: int = 0

    @property
    def overall(self) -> Metrics | None:
        """The metrics of all tasks; None where nothing has ended."""
        return self.levels[-1] if self.levels else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(
    rollouts: Iterable[Rollout] | Tally,
    *,
    measure: Measure = "e2e",
    missing: int = 0,
) -> Summary:
    """The metrics of turns.

    Args:
        rollouts: the turns in the order in which they ended, or their tally.
        measure: how far up the ladder the run measured.
        missing: samples that were asked for and have not ended.

    Raises:
        UnknownTask: if a task's id is none.
    """
    tally = rollouts if isinstance(rollouts, Tally) else Tally(rollouts)
    tasks = tally.best()
    e2e = measure == "e2e"
    levels = _groups(tasks, lambda task: task.operator.partition("/")[0], e2e)
    if tasks:
        levels.append(_metrics("all", list(tasks.values()), e2e))
    spent = Cost(tally.usage.tokens, round(tally.seconds, 3), tally.dollars)
    return Summary(
        levels=tuple(levels),
        models=tuple(_groups(tasks, lambda task: task.model, e2e)),
        families=tuple(_groups(tasks, lambda task: task.operator.partition(".")[0], e2e)),
        by_turn=tuple(_turns(tally, e2e)),
        turns=tally.turns,
        lost=tally.lost,
        verdicts=dict(sorted(tally.verdicts.items())),
        usage=tally.usage,
        spent=spent,
        per_correct=_share(spent, tally.solved),
        missing=missing,
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A figure that every task has of its own, or lacks: `kind` of the sizes `of`."""

    kind: str
    of: tuple[float | str, ...] = ()

    @classmethod
    def fast(cls, p: float, k: int = 1, *, e2e: bool = False) -> Self:
        return cls("fast_p_e2e" if e2e else "fast_p", (k, p))


def task_columns(samples: Samples, at: Sequence[int] = (1,), *, e2e: bool = True) -> dict[Column, float]:
    """A task's own value of every metric; geometric means as logarithms.

    Args:
        samples: outcomes of the task's samples; at least as many as the largest of `at`.
        at: the k of fast_p@k; 1 is fast_p itself.
        e2e: whether the model was measured.
    """
    found: dict[Column, float] = {}
    _add_fast(found, samples, at, FAST_P, lambda outcome: outcome.op, e2e=False)
    _add_speedup(found, "op_speedup", samples, lambda outcome: outcome.op)
    if e2e:
        _add_fast(found, samples, at, FAST_P_E2E, lambda outcome: outcome.e2e, e2e=True)
        _add_speedup(found, "e2e_speedup", samples, lambda outcome: outcome.e2e)
    rungs: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in samples:
        for level, speedup in outcome.rungs:
            rungs[level].append(math.log(speedup))
    found |= {Column("rung", (level,)): _mean(logs) for level, logs in rungs.items()}
    for name in ("roofline", "baseline_roofline"):
        shares = [share for outcome in samples if (share := getattr(outcome, name)) is not None]
        if shares:
            found[Column(name)] = _mean(shares)
    return found


def _groups(tasks: Mapping[str, Samples], name: Callable[[TaskId], str], e2e: bool) -> list[Metrics]:
    groups: defaultdict[str, list[Samples]] = defaultdict(list)
    for task, samples in tasks.items():
        groups[name(TaskId.parse(task))].append(samples)
    return [_metrics(group, found, e2e) for group, found in sorted(groups.items())]


def _metrics(name: str, tasks: Sequence[Samples], e2e: bool) -> Metrics:
    fewest = min(len(samples) for samples in tasks)
    at = [1 << power for power in range(fewest.bit_length())]
    found = means([task_columns(samples, at, e2e=e2e) for samples in tasks])

    def fast(k: int, e2e: bool) -> dict[float, Mean]:
        thresholds = FAST_P_E2E if e2e else FAST_P
        return {p: found[column] for p in thresholds if (column := Column.fast(p, k, e2e=e2e)) in found}

    def geometric(kind: str) -> Mean | None:
        mean = found.get(Column(kind))
        return mean and mean.exp()

    return Metrics(
        name=name,
        tasks=len(tasks),
        fast_p=fast(1, False),
        fast_p_e2e=fast(1, True),
        fast_p_at={k: fast(k, False) for k in at},
        fast_p_e2e_at={k: fast(k, True) for k in at} if e2e else {},
        op_speedup=geometric("op_speedup"),
        op_speedup_all=geometric("op_speedup_all"),
        e2e_speedup=geometric("e2e_speedup"),
        e2e_speedup_all=geometric("e2e_speedup_all"),
        rungs={str(column.of[0]): found[column].exp() for column in sorted(found, key=str) if column.kind == "rung"},
        roofline=found.get(Column("roofline")),
        baseline_roofline=found.get(Column("baseline_roofline")),
    )


def _turns(tally: Tally, e2e: bool) -> list[TurnMetrics]:
    last = max((turns[-1].turn for found in tally.samples.values() for turns in found.values()), default=-1)
    result = []
    for turn in range(last + 1):
        found = means([task_columns(samples, e2e=e2e) for samples in tally.best_until(turn).values()])
        model = found.get(Column("e2e_speedup_all"))
        result.append(
            TurnMetrics(
                turn,
                found[Column.fast(0.0)],
                found[Column.fast(1.0)],
                found[Column("op_speedup_all")].exp(),
                model and model.exp(),
            )
        )
    return result


def _add_fast(
    found: dict[Column, float],
    samples: Samples,
    at: Sequence[int],
    thresholds: Sequence[float],
    measured: Callable[[Outcome], Speedup | None],
    *,
    e2e: bool,
) -> None:
    for p in thresholds:
        fast = sum(outcome.correct and (p == 0 or is_faster(measured(outcome), p)) for outcome in samples)
        for k in at:
            found[Column.fast(p, k, e2e=e2e)] = at_least_one(len(samples), fast, k)


def _add_speedup(
    found: dict[Column, float], kind: str, samples: Samples, measured: Callable[[Outcome], Speedup | None]
) -> None:
    logs = [math.log(speedup.value) for outcome in samples if (speedup := measured(outcome)) is not None]
    if logs:
        found[Column(kind)] = _mean(logs)
    found[Column(f"{kind}_all")] = sum(logs) / len(samples)


def is_faster(speedup: Speedup | None, p: float) -> bool:
    """Whether a speedup is proven to be above `p`."""
    return speedup is not None and speedup.low > p


def at_least_one(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold one of the c good ones."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _share(spent: Cost, parts: int) -> Cost | None:
    if not parts:
        return None
    dollars = None if spent.dollars is None else spent.dollars / parts
    return Cost(spent.tokens / parts, spent.seconds / parts, dollars)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
