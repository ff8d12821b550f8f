"""What the clock measured, as results: calls added up to rungs, phases to the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastkernels_gym.catalog import OperatorInfo
from fastkernels_gym.referee.calibration import Calibration, Tolerance
from fastkernels_gym.referee.clock import CallTime, speedup
from fastkernels_gym.referee.program import Expected, Program
from fastkernels_gym.results import CaseTiming, EndToEnd, Estimate, PhaseTiming, Rung

_Z95 = 1.96
_SPREAD_ALONE = 1.5


@dataclass(frozen=True, slots=True)
class Measured:
    """A program, how often the workload makes its calls, and the least seconds that the device needs for one."""

    program: Program
    expected: dict[int, Expected]
    phase: str
    shapes: str
    calls: int
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Precision:
    """How closely is measured, as relative half-widths of a 95 % CI.

    Args:
        stop: of the statistical part, at which measuring ends.
        stable: of the whole, the spread between players included, up to which the result counts in full.
        calibration: that spread.
    """

    stop: float
    stable: float
    calibration: Calibration

    def suffices(self, estimate: Estimate, spread: float) -> bool:
        """Whether a result is stable: no device's own spread makes all of its results unstable."""
        return estimate.half_width <= max(self.stable, _SPREAD_ALONE * _Z95 * spread)


@dataclass(slots=True)
class Timings:
    """What a trial measured.

    Args:
        ladder: the operator and its rungs, where they were measured.
        e2e: the full model.
        stable: false where a confidence interval stayed too wide.
        dead_bands: of the operator and of the full model: what a proven speedup must exceed.
    """

    ladder: tuple[Rung, ...] = ()
    e2e: EndToEnd | None = None
    stable: bool = True
    dead_bands: tuple[float, float] = (0.0, 0.0)


def widened(estimate: Estimate, spread: float) -> tuple[float, float]:
    """The interval with the spread between equal players in quadrature, in logarithms.

    Args:
        estimate: its interval is statistical.
        spread: relative standard deviation.
    """
    middle, beyond = math.log(estimate.speedup), _Z95 * spread
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
