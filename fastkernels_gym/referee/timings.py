"""What the clock measured, as results: calls added up to rungs, phases to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastkernels_gym.catalog import OperatorInfo
from fastkernels_gym.referee.clock import CallTime, speedup
from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.program import Program
from fastkernels_gym.results import CaseTiming, EndToEnd, PhaseTiming, Rung


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
    """Relative half-widths of a 95 % CI: at `stop` measuring ends, up to `stable` the result counts in full."""

    stop: float
    stable: float


@dataclass(slots=True)
class Timings:
    """What a trial measured; `stable` is false where a confidence interval stayed too wide."""

    ladder: tuple[Rung, ...] = ()
    e2e: EndToEnd | None = None
    stable: bool = True


def rung(operator: OperatorInfo, measured: Sequence[Measured], times: Sequence[CallTime]) -> Rung:
    """An operator's timing, by the times of a call of each of its cases."""
    estimate = speedup(times, [float(one.calls) for one in measured])
    cases = tuple(
        CaseTiming(one.phase, one.shapes, one.calls, t.baseline * 1e6, t.candidate * 1e6)
        for one, t in zip(measured, times, strict=True)
    )
    baseline = sum(case.calls * case.baseline_us for case in cases)
    candidate = sum(case.calls * case.candidate_us for case in cases)
    roofline = sum(one.calls * one.least_s * 1e6 for one in measured)
    return Rung(estimate.speedup, estimate.ci95, operator.id, baseline, candidate, roofline, cases)


def end_to_end(whole: Sequence[Measured], times: Sequence[CallTime], depth: tuple[int, int]) -> EndToEnd:
    """The full model's timing, by the times of a pass of each phase.

    Args:
        whole: the phases.
        times: one for each.
        depth: layers that ran, and layers of the model: milliseconds are stretched by as much.
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
    return EndToEnd(estimate.speedup, estimate.ci95, baseline, candidate, depth, phases)
