"""How accurate is accurate enough: as accurate as production. Every threshold of accuracy is in this module.

A candidate's error against the oracle is divided by the baseline's own error against it, the latter floored at half an
ulp of the oracle in the output's dtype, over rows enough for the ratio to be a statistic. Shape, dtype, contiguity and
the places of NaN and infinities are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

RMS_RATIO = 2.0
MAX_RATIO = 4.0
# A ratio of errors is a statistic over rows: what all elements of a row share, a norm's scale or a softmax's sum, errs
# once a row. Calls of fewer rows are judged together until there are as many (docs/decisions.md has the rates).
FEWEST_ROWS = 64
# A round on which the baseline itself is this far off the oracle (relative RMS) says nothing and is redrawn smaller.
BASELINE_OFF = 0.05
# Timed outputs of the whole model are held against the baseline's on the same tokens: both err, each in its own way.
PAIR_RATIO = 1.5 * (RMS_RATIO + 1.0)
# Every call of a timed burst is held to this many times that: over so many calls chance reaches further, and what was
# not computed is far off.
EVERY_CALL = 4.0
# A routing decision is unsettled where its margin is at most this many times the router's RMS noise: two scores, each
# off by up to RMS_RATIO times the noise, three sigma out. No more rows than this share leave; what is unsettled must
# still be as near to the oracle as another expert's answer would be, relative RMS.
MARGIN = 3.0 * RMS_RATIO * math.sqrt(2.0)
MOST_UNSETTLED = 0.5
UNSETTLED_OFF = 0.9


@dataclass(frozen=True, slots=True)
class ErrorRatio:
    """A candidate's error over the baseline's, by root mean square and by the largest element."""

    rms: float
    max: float

    @property
    def passes(self) -> bool:
        return self.rms <= RMS_RATIO and self.max <= MAX_RATIO


def half_ulp(oracle: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance between neighbours of `dtype` at each value of the oracle (float64, any shape)."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(oracle.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(oracle, info.eps / 2), exponent - 1)


@dataclass(frozen=True, slots=True)
class Errors:
    """What candidate and baseline are off by in one output of one call, in half ulps of the oracle.

    The unit is the call's own, so that calls of different magnitude can be taken together.

    Args:
        elements: where the oracle is finite; no others count.
        candidate: RMS and maximum.
        baseline: RMS and maximum.
    """

    elements: int
    candidate: tuple[float, float]
    baseline: tuple[float, float]


def errors(candidate: torch.Tensor, baseline: torch.Tensor, oracle: torch.Tensor) -> Errors:
    """Measures one output; elements where the oracle is not finite are left to `same_places`.

    Args:
        candidate: any shape, a float dtype.
        baseline: the baseline's output, same shape and dtype.
        oracle: the reference's output in float64, same shape.
    """
    finite = torch.isfinite(oracle)
    truth = torch.where(finite, oracle, 0.0)
    unit = torch.where(finite, half_ulp(truth, candidate.dtype), 0.0)
    unit_rms, unit_max = _rms(unit), _max(unit)

    def off(values: torch.Tensor) -> tuple[float, float]:
        error = torch.where(finite, values.double() - truth, 0.0)
        return _quotient(_rms(error), unit_rms), _quotient(_max(error), unit_max)

    return Errors(int(finite.sum()), off(candidate), off(baseline))


def together(found: Sequence[Errors]) -> ErrorRatio:
    """The ratio over all of these: RMS by elements, the baseline's floored at half an ulp."""
    elements = max(1, sum(one.elements for one in found))

    def rms(values: Iterable[float]) -> float:
        weighted = (one.elements * value * value for one, value in zip(found, values, strict=True))
        return math.sqrt(sum(weighted) / elements)

    return ErrorRatio(
        _quotient(rms(one.candidate[0] for one in found), max(1.0, rms(one.baseline[0] for one in found))),
        _quotient(max(one.candidate[1] for one in found), max(1.0, *(one.baseline[1] for one in found))),
    )


def error_ratio(candidate: torch.Tensor, baseline: torch.Tensor, oracle: torch.Tensor) -> ErrorRatio:
    """The ratio of errors in one output of one call; arguments as in `errors`."""
    return together([errors(candidate, baseline, oracle)])


def same_places(candidate: torch.Tensor, baseline: torch.Tensor) -> bool:
    """Whether NaN and infinities stand at the same elements, with the same signs."""
    same = torch.equal(torch.isnan(candidate), torch.isnan(baseline))
    infinite = torch.isinf(baseline)
    return (
        same and torch.equal(torch.isinf(candidate), infinite) and torch.equal(candidate[infinite], baseline[infinite])
    )


def baseline_is_off(baseline: torch.Tensor, oracle: torch.Tensor) -> bool:
    """Whether the baseline itself fails a round: its inputs are then unfit to judge anyone."""
    if not torch.equal(torch.isfinite(baseline), torch.isfinite(oracle)):
        return True
    finite = torch.isfinite(oracle)
    difference = torch.where(finite, baseline.double() - oracle, 0.0)
    return _rms(difference) > BASELINE_OFF * _rms(torch.where(finite, oracle, 0.0)) + torch.finfo(baseline.dtype).tiny


def router_noise(baseline: torch.Tensor, oracle: torch.Tensor) -> float:
    """RMS error of a router's scores, floored at float32's: softmax is computed in it.

    Args:
        baseline: the scores that the baseline routes by, float64.
        oracle: the oracle's, same shape.
    """
    finite = torch.isfinite(oracle) & torch.isfinite(baseline)
    truth = torch.where(finite, oracle, 0.0)
    return max(_rms(torch.where(finite, baseline - oracle, 0.0)), _rms(half_ulp(truth, torch.float32)))


def floor_of(baseline: torch.Tensor, oracle: torch.Tensor) -> float:
    """What a baseline's output is off by, and half an ulp beside it, both relative to the RMS of the output.

    Args:
        baseline: any shape, a float dtype.
        oracle: the oracle's, same shape.
    """
    values = baseline.double()
    return relative_rms(values, oracle) + _quotient(_rms(half_ulp(values, baseline.dtype)), _rms(values))


def distances(candidate: Sequence[torch.Tensor], baseline: Sequence[torch.Tensor], floor: float) -> torch.Tensor:
    """RMS distance of each of these pairs of outputs for the same inputs, in units of the baseline's own error.

    Args:
        candidate: one output of some calls, a float dtype.
        baseline: the same of the baseline.
        floor: as `floor_of` found it on like inputs.

    Returns:
        (calls,) float32; infinite where anything is not finite.
    """
    off = torch.stack(torch._foreach_norm(torch._foreach_sub(list(candidate), list(baseline)), 2, torch.float32))
    scale = floor * torch.stack(torch._foreach_norm(list(baseline), 2, torch.float32))
    return torch.where(off == 0.0, 0.0, off / scale).nan_to_num(nan=math.inf, posinf=math.inf)


def relative_rms(value: torch.Tensor, oracle: torch.Tensor) -> float:
    """RMS of the difference over RMS of the oracle."""
    return _quotient(_rms(value.double() - oracle.double()), _rms(oracle.double()))


def _rms(values: torch.Tensor) -> float:
    return torch.linalg.vector_norm(values.double()).item() / math.sqrt(values.numel()) if values.numel() else 0.0


def _max(values: torch.Tensor) -> float:
    """The largest absolute value."""
    return torch.linalg.vector_norm(values, math.inf).item() if values.numel() else 0.0


def _quotient(error: float, scale: float) -> float:
    if math.isnan(error):
        return math.inf
    if error == 0.0:
        return 0.0
    return error / scale if scale > 0.0 else math.inf
