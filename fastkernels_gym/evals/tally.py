"""A run's turns, counted as they pass by: of each one only what metrics need is kept.

A sample counts by its best turn, and a timing only by what it proves: one that is unstable, inconsistent or beyond the
roofline proves that a kernel is correct, and no speedup.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from fastkernels_gym.agent import Usage
from fastkernels_gym.evals.rollout import Rollout
from fastkernels_gym.results import Estimate, Evaluation, Rung, Verdict


@dataclass(frozen=True, slots=True)
class Speedup:
    """A measured speedup and the lower end of its 95 % interval; neither exceeds 1 where the timing is not trusted."""

    value: float
    low: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one turn amounts to.

    Args:
        turn: its number, from 0.
        correct: whether its candidate is.
        reward: what it earned.
        op: the replaced operator's speedup (L4: the model's); None where not measured.
        e2e: the model's speedup; None where not measured.
        rungs: geometric mean speedup of the rungs at each level of the ladder, `L1` to `L4`.
        roofline: share of the operator's roofline that the candidate reaches; None where not known.
        baseline_roofline: the baseline's share.
        verdict: what its candidate was judged; `no_candidate` where there was nothing to judge.
    """

    turn: int
    correct: bool = False
    reward: float = 0.0
    op: Speedup | None = None
    e2e: Speedup | None = None
    rungs: tuple[tuple[str, float], ...] = ()
    roofline: float | None = None
    baseline_roofline: float | None = None
    verdict: str = "no_candidate"

    @classmethod
    def of(cls, turn: int, evaluation: Evaluation | None) -> Self:
        """What a turn's evaluation amounts to; None stands for a turn without a candidate."""
        if evaluation is None:
            return cls(turn)
        if not evaluation.correct:
            return cls(turn, verdict=str(evaluation.verdict))
        trusted = evaluation.verdict is Verdict.OK and evaluation.stable
        op = evaluation.ladder[0] if evaluation.ladder else None
        known = op is not None and op.roofline_us is not None and trusted
        return cls(
            turn,
            correct=True,
            reward=evaluation.reward,
            op=_speedup(evaluation.op, trusted),
            e2e=_speedup(evaluation.e2e, trusted),
            rungs=_rungs(evaluation, trusted),
            roofline=op.roofline_us / op.candidate_us if known and op and op.roofline_us else None,
            baseline_roofline=op.roofline_us / op.baseline_us if known and op and op.roofline_us else None,
            verdict=str(evaluation.verdict),
        )


def best(turns: Sequence[Outcome]) -> Outcome:
    """The best of a sample's turns: correct before incorrect, then by reward; the first of equals."""
    return max(turns, key=lambda outcome: (outcome.correct, outcome.reward))


class Tally:
    """The turns of a run, counted.

    Args:
        rollouts: turns to begin with, in the order in which they ended; of one that ran again the last outcome counts.

    Attributes:
        samples: task id -> sample -> outcomes of its turns, first to last.
        usage: what all turns cost, those that were lost or ran again included.
        seconds: wall time of all turns, likewise.
        dollars: what all turns cost, likewise; None where no turn says.
        llms: the LLMs that answered, as their servers name them, and how often.
        devices: where candidates ran, and how often.
    """

    def __init__(self, rollouts: Iterable[Rollout] = ()) -> None:
        self.samples: defaultdict[str, defaultdict[int, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
        self.llms: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.usage = Usage()
        self.seconds = 0.0
        self.dollars: float | None = None
        self._lost: set[str] = set()
        for rollout in rollouts:
            self.add(rollout)

    def add(self, rollout: Rollout) -> None:
        """Counts a turn."""
        self.seconds += rollout.seconds
        self.usage += rollout.usage
        if rollout.dollars is not None:
            self.dollars = (self.dollars or 0.0) + rollout.dollars
        if rollout.llm:
            self.llms[rollout.llm] += 1
        if rollout.evaluation is not None and rollout.evaluation.device:
            self.devices[rollout.evaluation.device] += 1
        if rollout.lost:
            self._lost.add(rollout.key)
            return
        self._lost.discard(rollout.key)
        turns = self.samples[rollout.task][rollout.sample]
        turns[:] = [outcome for outcome in turns if outcome.turn != rollout.turn]
        turns.append(Outcome.of(rollout.turn, rollout.evaluation))
        turns.sort(key=lambda outcome: outcome.turn)

    @property
    def lost(self) -> int:
        """Turns that infrastructure failed; they count nowhere else but in what was spent."""
        return len(self._lost)

    @property
    def turns(self) -> int:
        """Turns that ended, lost ones included."""
        return self.verdicts.total() + self.lost

    @property
    def verdicts(self) -> Counter[str]:
        """How often each verdict was reached."""
        return Counter(
            outcome.verdict for found in self.samples.values() for turns in found.values() for outcome in turns
        )

    def best(self) -> dict[str, list[Outcome]]:
        """Of each task, by id, the best turn of every sample."""
        return {
            task: [best(turns) for _, turns in sorted(found.items())] for task, found in sorted(self.samples.items())
        }

    def best_until(self, turn: int) -> dict[str, list[Outcome]]:
        """`best` of the turns up to `turn`, from 0; a sample that ended earlier keeps what it had."""
        result: defaultdict[str, list[Outcome]] = defaultdict(list)
        for task, found in sorted(self.samples.items()):
            for turns in found.values():
                if so_far := [outcome for outcome in turns if outcome.turn <= turn]:
                    result[task].append(best(so_far))
        return dict(result)

    @property
    def solved(self) -> int:
        """Samples that have a correct kernel."""
        return sum(outcome.correct for samples in self.best().values() for outcome in samples)


def _speedup(measured: Estimate | None, trusted: bool) -> Speedup | None:
    if measured is None:
        return None
    value, low = measured.speedup, measured.ci95[0]
    return Speedup(value, low) if trusted else Speedup(min(value, 1.0), min(low, 1.0))


def _rungs(evaluation: Evaluation, trusted: bool) -> tuple[tuple[str, float], ...]:
    logs: defaultdict[str, list[float]] = defaultdict(list)
    found: list[tuple[str, Rung | Estimate]] = [(rung.operator.partition("/")[0], rung) for rung in evaluation.ladder]
    if evaluation.e2e is not None:
        found.append(("L4", evaluation.e2e))
    for level, measured in found:
        speedup = _speedup(measured, trusted)
        logs[level].append(math.log(speedup.value) if speedup else 0.0)
    return tuple((level, math.exp(sum(values) / len(values))) for level, values in sorted(logs.items()))
