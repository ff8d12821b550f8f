"""Runs beside each other: on the tasks that they share, and in a ranking.

A comparison resamples tasks, and both runs' values of a task stay together: how hard tasks are cancels, so differences
much smaller than either run's own interval are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastkernels_gym.errors import RunFolderError, UserError
from fastkernels_gym.evals.archive import Run, read_run
from fastkernels_gym.evals.bootstrap import Mean, means
from fastkernels_gym.evals.metrics import FAST_P, FAST_P_E2E, Column, Summary, summarise, task_columns
from fastkernels_gym.evals.tally import Tally

_SETTINGS = ("device", "measure", "reward", "budget_s", "samples", "turns", "prompts", "temperature", "seed")


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two runs on common tasks.

    Args:
        metric: its name.
        ratio: whether runs are compared by ratio (speedups) or by difference (shares).
        first: the first run's value.
        second: the other's.
        change: other against first, with its paired interval.
    """

    metric: str
    ratio: bool
    first: Mean
    second: Mean
    change: Mean

    @property
    def significant(self) -> bool:
        """Whether the interval excludes that nothing changed."""
        none = 1.0 if self.ratio else 0.0
        return self.change.ci95 is not None and not self.change.ci95[0] <= none <= self.change.ci95[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against the first one.

    Args:
        first, second: names of the runs.
        tasks: tasks that both have results of.
        settings: what they were run with differently, as `name: first, second`.
        differences: one for each metric that both have.
    """

    first: str
    second: str
    tasks: int
    settings: tuple[str, ...]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Standing:
    """A run's place in a ranking."""

    run: Run
    llms: tuple[str, ...]
    summary: Summary

    def to_dict(self) -> dict[str, Any]:
        names = {"run": str(self.run.path), "agent": self.run.config.agent, "llms": self.llms}
        return {**names, "device": self.run.config.device, **self.summary.to_dict()}


def compare_runs(runs: Sequence[Run]) -> list[Comparison]:
    """Every other run against the first.

    Raises:
        UserError: if there are fewer than two runs, or no common tasks.
        RunFolderError: if a run is damaged.
    """
    if len(runs) < 2:
        raise UserError("a comparison takes two runs or more")
    first, *others = [(run, Tally(run.rollouts())) for run in runs]
    return [_compare(first, other) for other in others]


def rank_runs(folder: Path, *, damaged: Callable[[str], None]) -> list[Standing]:
    """The runs below a folder that have results, the highest share of faster operators (fast_1) first.

    Equals follow each other by the operator's geometric mean speedup, a failure counting as 1x.

    Args:
        folder: holds run folders, at any depth.
        damaged: told why a run was left out.

    Raises:
        UserError: if there is no run with results.
    """
    found = []
    for config in sorted(folder.rglob("config.json")):
        try:
            run = read_run(config.parent)
            tally = Tally(run.rollouts())
            summary = summarise(tally, measure=run.config.measure, missing=run.config.missing(tally))
        except UserError as error:
            damaged(str(error))
            continue
        if summary.overall is not None:
            found.append(Standing(run, tuple(tally.llms), summary))
    if not found:
        raise RunFolderError(f"no run with results below {folder}")
    return sorted(found, key=_strength, reverse=True)


def _strength(standing: Standing) -> tuple[float, float]:
    overall = standing.summary.overall
    assert overall is not None and overall.op_speedup_all is not None
    return overall.fast_p[1.0].value, overall.op_speedup_all.value


def _compare(first: tuple[Run, Tally], second: tuple[Run, Tally]) -> Comparison:
    (left, old), (right, new) = first, second
    ours, theirs = old.best(), new.best()
    common = [task for task in ours if task in theirs]
    if not common:
        raise UserError(f"{left.name} and {right.name} have no task in common")
    e2e = left.config.measure == right.config.measure == "e2e"
    rows = []
    for task in common:
        before, after = task_columns(ours[task], e2e=e2e), task_columns(theirs[task], e2e=e2e)
        change = {("change", name): after[name] - before[name] for name in before.keys() & after.keys()}
        rows.append(
            {("first", name): value for name, value in before.items()}
            | {("second", name): value for name, value in after.items()}
            | change
        )
    found = means(rows)
    differences = []
    for metric, column in _metrics(e2e):
        three = [found[part, column] for part in ("first", "second", "change")]
        ratio = column.kind.endswith("_all")
        differences.append(Difference(metric, ratio, *(mean.exp() if ratio else mean for mean in three)))
    settings = [(name, getattr(left.config, name), getattr(right.config, name)) for name in _SETTINGS]
    differ = tuple(f"{name}: {a}, {b}" for name, a, b in settings if a != b)
    return Comparison(left.name, right.name, len(common), differ, tuple(differences))


def _metrics(e2e: bool) -> list[tuple[str, Column]]:
    """Names and columns of what is compared: all of it defined on every task."""
    names = [("correct" if p == 0 else f"fast_{p:g}", Column.fast(p)) for p in FAST_P]
    names.append(("operator's speedup, failures as 1x", Column("op_speedup_all")))
    if e2e:
        names += [(f"fast_{p:g} end to end", Column.fast(p, e2e=True)) for p in FAST_P_E2E]
        names.append(("model's speedup, failures as 1x", Column("e2e_speedup_all")))
    return names
