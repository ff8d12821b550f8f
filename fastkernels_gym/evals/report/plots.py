"""Figures as shapes in a drawing's own coordinates; the page's template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fastkernels_gym.evals.bootstrap import Mean
from fastkernels_gym.evals.metrics import Metrics, Summary
from fastkernels_gym.evals.tally import Outcome, Speedup

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_STEPS = 120


@dataclass(frozen=True, slots=True)
class Axis:
    """Values along one side of a drawing, from `low` to `high`, drawn between the pixels `start` and `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; what lies outside is drawn at the edge."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (min(max(value, low), high) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Pixel and label of each tick."""
        return [(self.at(value), label) for value, label in self.ticks]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure.

    Args:
        name: in the legend.
        line: its corners in pixels, as SVG's `points`.
        dots: pixels (x, y, low, high) and what to say of the point; empty for curves.
    """

    name: str
    line: str
    dots: tuple[tuple[float, float, float, float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: title, what it says to those who do not see it, axes and lines."""

    title: str
    text: str
    x: Axis
    y: Axis
    series: tuple[Series, ...] = field(default=())


def figures(summary: Summary, tasks: Mapping[str, Sequence[Outcome]]) -> list[Figure]:
    """All figures that a run has the data for."""
    if summary.overall is None:
        return []
    found = [_fast_p("Operator: share of tasks faster than p times", tasks, lambda outcome: outcome.op, 0.0, 3.0)]
    if summary.overall.fast_p_e2e:
        title = "Model, end to end: share of tasks faster than p times"
        found.append(_fast_p(title, tasks, lambda outcome: outcome.e2e, 0.95, 1.25))
    if any(level.rungs for level in summary.levels):
        found.append(_ladder(summary.levels))
    if len(summary.by_turn) > 1:
        found.append(_by_turn(summary))
    if len(summary.overall.fast_p_at) > 1:
        found.append(_at_k(summary.overall))
    return found


def _fast_p(
    title: str,
    tasks: Mapping[str, Sequence[Outcome]],
    measured: Callable[[Outcome], Speedup | None],
    low: float,
    high: float,
) -> Figure:
    groups: dict[str, list[list[float]]] = {"all": []}
    for task, samples in tasks.items():
        lows = [speedup.low if (speedup := measured(one)) else 0.0 for one in samples]
        groups["all"].append(lows)
        groups.setdefault(task.partition("/")[0], []).append(lows)
    if len(groups) == 2:  # a level that is all there is
        groups = {"all": groups["all"]}
    most = max([high, *(value for lows in groups["all"] for value in lows)])
    step = (high - low) / 6 * math.ceil((min(most, 4 * high) - low) / (high - low))  # so that ticks are round numbers
    high = low + 6 * step
    x = _across("p", low, high, tuple((low + i * step, f"{low + i * step:.3g}") for i in range(7)))
    y = _shares()
    grid = [low + i * (high - low) / _STEPS for i in range(_STEPS + 1)]
    series = [Series(name, _line(x, y, [(p, _share_above(p, found)) for p in grid])) for name, found in groups.items()]
    return Figure(title, _told(title, groups), x, y, tuple(series))


def _share_above(p: float, tasks: Sequence[Sequence[float]]) -> float:
    return sum(sum(value > p for value in lows) / len(lows) for lows in tasks) / len(tasks)


def _ladder(levels: Sequence[Metrics]) -> Figure:
    names = ("L1", "L2", "L3", "L4")
    ticks = tuple((float(i), f"{name} {what}") for i, (name, what) in enumerate(zip(names, _LEVELS, strict=True)))
    x = _across("", -0.3, 3.3, ticks)
    groups = [level for level in levels if level.rungs and level.name != "all"]
    y = _speedups([mean for level in groups for mean in level.rungs.values()])
    series = [
        _dotted(f"{level.name} tasks", x, y, [(float(names.index(rung)), mean) for rung, mean in level.rungs.items()])
        for level in groups
    ]
    title = "The ladder: speedup of correct kernels at each level that they reach"
    return Figure(title, _told(title, [level.name for level in groups]), x, y, tuple(series))


_LEVELS = ("operator", "block", "layer", "model")


def _by_turn(summary: Summary) -> Figure:
    turns = summary.by_turn
    x = _across("turn", 1, len(turns), _whole(1, len(turns)))
    y = _shares()
    correct = _dotted("correct", x, y, [(turn.turn + 1, turn.correct) for turn in turns])
    fast = _dotted("fast_1", x, y, [(turn.turn + 1, turn.fast_1) for turn in turns])
    title = "Improvement by turn: the best kernel so far"
    return Figure(title, _told(title, ["correct", "fast_1"]), x, y, (correct, fast))


def _at_k(overall: Metrics) -> Figure:
    last = max(overall.fast_p_at)
    x = _across("k samples", 1, last, tuple((float(k), str(k)) for k in overall.fast_p_at))
    y = _shares()
    series = [
        _dotted(name, x, y, [(float(k), found[p]) for k, found in overall.fast_p_at.items()])
        for name, p in (("pass@k", 0.0), ("fast_1@k", 1.0), ("fast_2@k", 2.0))
    ]
    title = "Best of k samples: share of tasks, unbiased"
    return Figure(title, _told(title, ["pass@k", "fast_1@k", "fast_2@k"]), x, y, tuple(series))


def _across(label: str, low: float, high: float, ticks: tuple[tuple[float, str], ...]) -> Axis:
    return Axis(label, low, high, _LEFT, WIDTH - _RIGHT, ticks)


def _shares() -> Axis:
    ticks = tuple((i / 4, f"{i * 25} %") for i in range(5))
    return Axis("", 0.0, 1.0, HEIGHT - _BOTTOM, _TOP, ticks)


def _speedups(means: Sequence[Mean]) -> Axis:
    """A logarithmic axis that holds all means with their intervals, and 1x."""
    ends = [end for mean in means for end in (mean.value, *(mean.ci95 or ()))]
    low, high = min([*ends, 1.0]) * 0.95, max([*ends, 1.0]) * 1.05
    ticks = [low * (high / low) ** (i / 4) for i in range(5)]
    marks = sorted({1.0, *(tick for tick in ticks if abs(math.log(tick)) > math.log(high / low) / 10)})
    return Axis("", low, high, HEIGHT - _BOTTOM, _TOP, tuple((mark, f"{mark:.2f}x") for mark in marks), log=True)


def _whole(first: int, last: int) -> tuple[tuple[float, str], ...]:
    step = max(1, math.ceil((last - first) / 8))
    return tuple((float(value), str(value)) for value in range(first, last + 1, step))


def _dotted(name: str, x: Axis, y: Axis, points: Sequence[tuple[float, Mean]]) -> Series:
    dots = []
    for value, mean in points:
        low, high = mean.ci95 or (mean.value, mean.value)
        said = f"{name}: {mean.value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if mean.ci95 else "")
        dots.append((x.at(value), y.at(mean.value), y.at(low), y.at(high), said))
    return Series(name, _line(x, y, [(value, mean.value) for value, mean in points]), tuple(dots))


def _line(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x.at(a)},{y.at(b)}" for a, b in points)


def _told(title: str, names: Sequence[str] | Mapping[str, object]) -> str:
    return f"{title}; lines for {', '.join(names)}"
