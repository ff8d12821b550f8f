"""What the clock measured, as results: calls added up to rungs, phases to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastkernels_gym.catalog import OperatorInfo
from fastkernels_gym.referee.calibration import Z95, Calibration, Tolerance
from fastkernels_gym.referee.clock import CallTime, speedup
from fastkernels_gym.referee.consistency import Doubt, beyond_roofline
from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.program import Program
from fastkernels_gym.results import CaseTiming, EndToEnd, Estimate, PhaseTiming, RewardKind, Rung, Verdict

_SPREAD_ALONE = 1.5
_QUICKENED = 4.0  # times as fast when timed as when judged


@dataclass(frozen=True, slots=True)
class Measured:
    """A program, how often the workload makes its calls, and what one of them needs.

    `least_s` is what the device takes at least where data lies in its memory; nothing falls short of `impossible_s`.
    `seen_s` is what a call took the candidate when it was judged, where that was so long that bursts were made shorter.
    """

    program: Program
    expected: dict[int, Expected]
    phase: str
    shapes: str
    calls: int
    least_s: float = 0.0
    impossible_s: float = 0.0
    seen_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Precision:
    """How closely is measured, as relative half-widths of a 95 % CI.

    Args:
        stop: of the statistical part, at which measuring an operator ends.
        stop_whole: at which measuring the full model ends.
        stable: of the whole, the spread between players included, up to which the result counts in full.
        calibration: that spread.
    """

    stop: float
    stop_whole: float
    stable: float
    calibration: Calibration

    def suffices(self, estimate: Estimate, spread: float) -> bool:
        """Whether a result is stable: no device's own spread makes all of its results unstable."""
        return estimate.half_width <= max(self.stable, _SPREAD_ALONE * Z95 * spread)


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured together: the cases of an operator, or the phases of the full model.

    Args:
        times: a call of each.
        tolerance: between equal kernels.
        estimate: what they add up to.
        kept: what is asked about when the candidate is dead: the operator's heaviest case, every phase of the model.
        claimed_s: seconds of a pass, by phase, that the operator saves by its bursts and on grant; it is to show them.
    """

    times: Sequence[CallTime]
    tolerance: Tolerance
    estimate: Rung | EndToEnd
    kept: Sequence[tuple[Measured, CallTime]] = ()
    claimed_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether the speedup would count as proven."""
        return self.estimate.ci95[0] > 1.0 + self.tolerance.dead_band


@dataclass(slots=True)
class Timings:
    """What a trial measured.

    Args:
        precision: that was asked for.
        rungs: the operator and its ladder, where they were timed.
        whole: the full model, where it was.
        doubt: why none of it is believed, where something speaks against it.
        unexplained: whether a proven saving of the full model was more than the operator's own timing explains; what is
            more is never counted.
    """

    precision: Precision
    rungs: list[Timed] = field(default_factory=list)
    whole: Timed | None = None
    doubt: Doubt | None = None
    unexplained: bool = False

    @property
    def operator(self) -> Timed | None:
        return self.rungs[0] if self.rungs else None

    @property
    def ladder(self) -> tuple[Rung, ...]:
        return tuple(timed.estimate for timed in self.rungs if isinstance(timed.estimate, Rung))

    @property
    def e2e(self) -> EndToEnd | None:
        return self.whole.estimate if self.whole and isinstance(self.whole.estimate, EndToEnd) else None

    @property
    def stable(self) -> bool:
        """Whether the intervals that rewards go by are narrow enough, and no block of a slowed device is in them."""
        timed = [found for found in (self.operator, self.whole) if found is not None]
        narrow = all(self.precision.suffices(found.estimate, found.tolerance.spread) for found in timed)
        return narrow and not any(one.slowed for found in timed for one in found.times)

    @property
    def discarded(self) -> int:
        """Blocks that were left out because the device was slowed down."""
        timed = [*self.rungs, *([self.whole] if self.whole else [])]
        return sum(one.discarded for found in timed for one in found.times)

    def add(self, rung: Timed, doubt: Doubt | None) -> None:
        """Takes the next rung in; the first doubt counts."""
        self.rungs.append(rung)
        self.doubt = self.doubt or doubt

    def forget_programs(self) -> None:
        """Keeps the figures only: a program holds gigabytes of inputs."""
        self.rungs = [replace(timed, kept=()) for timed in self.rungs]
        self.whole = replace(self.whole, kept=()) if self.whole else None

    def dead_band(self, reward_kind: RewardKind) -> float:
        """What a proven speedup must exceed."""
        found = self.operator if reward_kind == "op" else self.whole
        return (found.tolerance if found else self.precision.calibration.e2e).dead_band


def too_fast(name: str, measured: Sequence[Measured], timed: Timed) -> Doubt | None:
    """Why a timing is quarantined: a call of some case, or a pass of the model, takes less than any could."""
    for one, found in zip(measured, timed.times, strict=True):
        if beyond_roofline(found, one.impossible_s, timed.tolerance):
            detail = f"{name}, {one.phase} {one.shapes}: {found.candidate * 1e6:.3g} us a call"
            return Doubt(Verdict.BEYOND_ROOFLINE, f"{detail}, where {one.impossible_s * 1e6:.3g} are out of reach")
    return None


def quickened(name: str, measured: Sequence[Measured], timed: Timed) -> Doubt | None:
    """Why a timing is not believed whose bursts are short for the candidate's slowness: it was not so slow in them."""
    for one, found in zip(measured, timed.times, strict=True):
        if found.candidate < one.seen_s / _QUICKENED:
            detail = f"{name}, {one.phase} {one.shapes}: {found.candidate * 1e6:.3g} us a call when it was timed"
            return Doubt(Verdict.TIMING_INCONSISTENT, f"{detail}, {one.seen_s * 1e6:.3g} before")
    return None


def widened(estimate: Estimate, spread: float) -> tuple[float, float]:
    """The interval with the spread between equal players in quadrature, in logarithms.

    Args:
        estimate: its interval is statistical.
        spread: relative standard deviation.
    """
    middle, beyond = math.log(estimate.speedup), Z95 * spread
    low, high = (math.hypot(middle - math.log(end), beyond) for end in estimate.ci95)
    return math.exp(middle - low), math.exp(middle + high)


def tolerance_of(measured: Sequence[Measured], times: Sequence[CallTime], calibration: Calibration) -> Tolerance:
    """An operator's, by the times of a call of each of its cases."""
    return calibration.operator(
        (t.baseline * 1e6, t.baseline * 1e6 * one.calls) for one, t in zip(measured, times, strict=True)
    )


def rung(operator: OperatorInfo, measured: Sequence[Measured], times: Sequence[CallTime], spread: float) -> Rung:
    """An operator's timing, by the times of a call of each of its cases.

    Args:
        operator: which.
        measured: its cases.
        times: one for each.
        spread: between equal players.
    """
    estimate = speedup(times, [float(one.calls) for one in measured])
    cases = tuple(
        CaseTiming(one.phase, one.shapes, one.calls, t.baseline * 1e6, t.candidate * 1e6)
        for one, t in zip(measured, times, strict=True)
    )
    baseline = sum(case.calls * case.baseline_us for case in cases)
    candidate = sum(case.calls * case.candidate_us for case in cases)
    roofline = sum(one.calls * one.least_s * 1e6 for one in measured)
    return Rung(estimate.speedup, widened(estimate, spread), operator.id, baseline, candidate, roofline, cases)


def end_to_end(whole: Sequence[Measured], times: Sequence[CallTime], depth: tuple[int, int], spread: float) -> EndToEnd:
    """The full model's timing, by the times of a pass of each phase.

    Args:
        whole: the phases.
        times: one for each.
        depth: layers that ran, and layers of the model: milliseconds are stretched by as much.
        spread: between equal players.
    """
    run, full = depth
    stretch = 1000.0 * full / run
    estimate = speedup(times, [float(one.calls) for one in whole])
    phases = {
        one.phase: PhaseTiming(one.calls, t.baseline * stretch, t.candidate * stretch)
        for one, t in zip(whole, times, strict=True)
    }
    baseline = sum(p.n * p.baseline_ms for p in phases.values())
    candidate = sum(p.n * p.candidate_ms for p in phases.values())
    return EndToEnd(estimate.speedup, widened(estimate, spread), baseline, candidate, depth, phases)


def remeasured(whole: Timed, times: Sequence[CallTime]) -> Timed:
    """The full model's timing by other times of the same passes."""
    assert isinstance(whole.estimate, EndToEnd)
    phases = [phase for phase, _ in whole.kept]
    estimate = end_to_end(phases, times, whole.estimate.depth, whole.tolerance.spread)
    return replace(whole, times=times, estimate=estimate, kept=list(zip(phases, times, strict=True)))
