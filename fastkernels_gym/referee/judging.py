"""What a call gave against what it should give: by the oracle in full, or by the baseline's run in its noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.numerics import ErrorRatio, Errors
from fastkernels_gym.referee.taking import Sample
from fastkernels_gym.results import Verdict

Outputs = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call gives: by the baseline, and by the oracle in float64; KV rows that it writes are further outputs.

    Args:
        baseline: the baseline's outputs.
        oracle: the oracle's.
        unsettled: (rows,) bool; rows of the outputs whose routing lies within the router's noise, None for none.
        canonical: puts outputs whose order is free into one order, where the operator says how.
        router_noise: RMS error of the scores that each of the baseline's routers was handed.
    """

    baseline: Outputs
    oracle: Outputs
    unsettled: torch.Tensor | None = None
    canonical: Callable[..., Outputs] | None = None
    router_noise: tuple[float, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether the baseline itself is near enough to the oracle to judge anyone by."""
        return not any(
            base.is_floating_point() and numerics.baseline_is_off(base, oracle)
            for base, oracle in zip(self.baseline, self.oracle, strict=True)
            if base is not None and oracle is not None
        )

    def of_samples(self, samples: Sequence[Sample | None]) -> Expected:
        """The pieces that samples hold of the first outputs; the others, KV rows, whole.

        Args:
            samples: of each output, None for what is taken whole.
        """

        def taken(outputs: Outputs) -> Outputs:
            pairs = zip_longest(outputs, samples)
            return tuple(out if sample is None or out is None else sample.of_output(out) for out, sample in pairs)

        return replace(self, baseline=taken(self.baseline), oracle=taken(self.oracle))


def copied(outputs: Outputs) -> Outputs:
    """Outputs that the next window leaves alone."""
    return tuple(None if output is None else output.clone() for output in outputs)


def judge(name: str, outputs: Outputs, expected: Expected) -> ErrorRatio:
    """The worst error ratio of a call's outputs; raises as `judge_together` does."""
    return judge_together(name, [(outputs, expected)])


def judge_together(name: str, calls: Sequence[tuple[Outputs, Expected]]) -> ErrorRatio:
    """The worst error ratio of an output, over all of these calls of one program.

    Raises:
        CandidateFault: wrong_value or unwritten_output, naming the first output that fails.
    """
    compared: dict[int, list[_Compared]] = {}
    for outputs, expected in calls:
        for one in _compare(name, outputs, expected):
            compared.setdefault(one.index, []).append(one)
    worst = ErrorRatio(0.0, 0.0)
    for found in compared.values():
        ratio = numerics.together([one.errors for one in found])
        if not ratio.passes:
            raise CandidateFault(Verdict.WRONG_VALUE, _mismatch(name, max(found, key=_furthest_off), ratio))
        worst = ErrorRatio(max(worst.rms, ratio.rms), max(worst.max, ratio.max))
    return worst


@dataclass(frozen=True, slots=True)
class _Compared:
    """One floating-point output of one call, its NaN and infinities in their places."""

    index: int
    ours: torch.Tensor
    truth: torch.Tensor
    errors: Errors


def _furthest_off(one: _Compared) -> float:
    return one.errors.candidate[1]


def _compare(name: str, outputs: Outputs, expected: Expected) -> Iterator[_Compared]:
    """Checks what is exact of a call's outputs, and measures the rest."""
    all_of_them = (outputs, expected.baseline, expected.oracle)
    if expected.canonical is not None:
        all_of_them = tuple(expected.canonical(*found) for found in all_of_them)  # type: ignore[assignment]
    for index, (ours, base, truth) in enumerate(zip(*all_of_them, strict=True)):
        if ours is None or base is None or truth is None:
            continue
        leaving = expected.unsettled
        if leaving is not None and base.dim() and len(base) == len(leaving):
            _judge_unsettled(name, index, ours[leaving], truth[leaving])
            ours, base, truth = (t[~leaving] for t in (ours, base, truth))
        if not base.is_floating_point():
            if not torch.equal(ours, base):
                raise CandidateFault(Verdict.WRONG_VALUE, f"{name}: output {index} differs")
            continue
        if not numerics.same_places(ours, base):
            unwritten = torch.isnan(ours).logical_and(torch.isfinite(base))
            share = unwritten.float().mean().item()
            verdict = Verdict.UNWRITTEN_OUTPUT if share > 0 else Verdict.WRONG_VALUE
            raise CandidateFault(
                verdict, f"{name}: output {index}: {share:.1%} NaN where numbers belong, or infinities misplaced"
            )
        yield _Compared(index, ours, truth, numerics.errors(ours, base, truth))


def _judge_unsettled(name: str, index: int, ours: torch.Tensor, truth: torch.Tensor) -> None:
    """Rows that another choice of expert may change are held to what such a choice can change."""
    if ours.is_floating_point() and not numerics.relative_rms(ours, truth) <= numerics.UNSETTLED_OFF:
        detail = f"{name}: output {index}: rows whose routing is close to a tie are far from any choice's answer"
        raise CandidateFault(Verdict.WRONG_VALUE, detail)


def _mismatch(name: str, worst: _Compared, ratio: ErrorRatio) -> str:
    ours, truth, index = worst.ours, worst.truth, worst.index
    error = torch.nan_to_num(ours.double() - truth).abs()
    position = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    return (
        f"{name}: output {index}: error {ratio.rms:.3g}x the baseline's by RMS (allowed {numerics.RMS_RATIO:g}x), "
        f"{ratio.max:.3g}x by maximum (allowed {numerics.MAX_RATIO:g}x); worst at {position}: "
        f"got {ours[position].item():.6g}, expected {truth[position].item():.6g}"
    )


def noise_floor(expected: Iterable[Expected]) -> list[float]:
    """By how much the baseline is off in each output (`numerics.floor_of`), the worst of some calls of one operator."""
    worst: list[float] = []
    for one in expected:
        pair = one.baseline, one.oracle
        bases, truths = pair if one.canonical is None else (one.canonical(*found) for found in pair)
        worst = worst or [0.0] * len(bases)
        for index, (base, truth) in enumerate(zip(bases, truths, strict=True)):
            if base is not None and truth is not None and base.is_floating_point():
                if one.unsettled is not None and base.dim() and len(base) == len(one.unsettled):
                    base, truth = base[~one.unsettled], truth[~one.unsettled]
                worst[index] = max(worst[index], numerics.floor_of(base, truth))
    return worst


def compare(
    name: str, ours: Outputs, theirs: Outputs, noise: Sequence[float], unsettled: torch.Tensor | None = None
) -> None:
    """Holds outputs against the baseline's for the same inputs, in units of its noise.

    Args:
        name: of the call, for the message.
        ours: the candidate's.
        theirs: the baseline's.
        noise: its floor in each output.
        unsettled: (rows,) bool; rows of the outputs that another choice of expert may change.

    Raises:
        CandidateFault: wrong_value.
    """
    for index, (value, base, floor) in enumerate(zip(ours, theirs, noise, strict=True)):
        if value is None or base is None:
            continue
        if unsettled is not None and base.dim() and len(base) == len(unsettled):
            _judge_unsettled(name, index, value[unsettled], base[unsettled])
            value, base = value[~unsettled], base[~unsettled]
        if not base.is_floating_point():
            if not torch.equal(value, base):
                raise CandidateFault(Verdict.WRONG_VALUE, f"{name}: output {index} differs")
            continue
        _hold(f"{name}: output {index}", numerics.distances([value], [base], floor).item(), numerics.PAIR_RATIO)


def compare_every(
    name: str,
    ours: Sequence[Sequence[torch.Tensor]],
    theirs: Sequence[Sequence[torch.Tensor]],
    noise: Sequence[float],
    index: int,
) -> None:
    """Holds every call of a burst against the baseline's: one of them as `compare` does, the others coarsely.

    Args:
        name: of the calls, for the message.
        ours: the candidate's, by output and call.
        theirs: the baseline's.
        noise: its floor in each output.
        index: of the one.

    Raises:
        CandidateFault: wrong_value.
    """
    for output, (values, bases, floor) in enumerate(zip(ours, theirs, noise, strict=True)):
        if not bases:
            continue
        if not bases[0].is_floating_point():
            if not torch.equal(values[index], bases[index]):
                raise CandidateFault(Verdict.WRONG_VALUE, f"{name}: output {output} differs")
            continue
        found = numerics.distances(values, bases, floor)
        one, furthest = torch.stack([found[index], found.max()]).tolist()
        _hold(f"{name}: output {output}", one, numerics.PAIR_RATIO)
        _hold(f"{name}: output {output} of some call", furthest, numerics.EVERY_CALL * numerics.PAIR_RATIO)


def far_off(
    ours: Sequence[Sequence[torch.Tensor]], theirs: Sequence[Sequence[torch.Tensor]], noise: Sequence[float]
) -> set[int]:
    """Calls of a burst that are further from the baseline's than `compare_every` lets any be; arguments as there."""
    far: set[int] = set()
    for values, bases, floor in zip(ours, theirs, noise, strict=True):
        if bases and bases[0].is_floating_point():
            found = numerics.distances(values, bases, floor) > numerics.EVERY_CALL * numerics.PAIR_RATIO
            far.update(found.nonzero().flatten().tolist())
        else:
            far.update(call for call, pair in enumerate(zip(values, bases, strict=True)) if not torch.equal(*pair))
    return far


def _hold(what: str, distance: float, allowed: float) -> None:
    if distance > allowed:
        detail = f"{what}: {distance:.3g} noise floors from the baseline's (allowed {allowed:g})"
        raise CandidateFault(Verdict.WRONG_VALUE, detail)
