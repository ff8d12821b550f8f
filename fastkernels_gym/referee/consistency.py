"""What timings that are true cannot be: a saving of more than there was, a baseline that is slow only in company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastkernels_gym.referee.calibration import Z95, Tolerance
from fastkernels_gym.referee.clock import CallTime
from fastkernels_gym.results import Verdict

# By how much a device's own speed may move between the pair and the moments after it: clocks and power on a GPU. A
# CPU's other users move it by a factor of two, and nothing of the candidate's runs there beside the baseline.
DRIFT = {"cpu": math.inf, "cuda": 0.03}

_PROVEN = 0.75  # of a saving, by bursts of one call: more need not be asked
_ELSEWHERE = 1.5  # times what it saves in a pass an operator may save in bursts, and the other way round


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a correct candidate's timing is not believed."""

    verdict: Verdict
    detail: str


def saves_more(whole: CallTime, possible_s: float, tolerance: Tolerance) -> bool:
    """Whether a phase's saving is certainly more than its replaced operators took.

    Args:
        whole: a pass of the phase.
        possible_s: seconds of a pass that the baseline spends in what was replaced.
        tolerance: of the full model.
    """
    return whole.saving - _error(whole, tolerance) > possible_s + tolerance.dead_band * whole.baseline


def rests_on_grant(found: CallTime) -> bool:
    """Whether most of an operator's saving is granted, since players' fixed costs differ, and by single calls unproven.

    Work that is batched over a burst looks so, and so does a small kernel's true saving.
    """
    if found.single_saving is None or found.resolution == 0.0:
        return False
    return found.saving > 0.0 and float(np.quantile(found.single_saving[1:], 0.025)) < _PROVEN * found.saving


def unseen(whole: CallTime, claimed_s: float, tolerance: Tolerance) -> bool:
    """Whether a phase, whose calls depend on each other, certainly saves less than an operator's bursts promise.

    Args:
        whole: a pass of the phase.
        claimed_s: seconds of a pass, by the bursts: cold, where in a pass the last operator left data in the cache.
        tolerance: of the full model.
    """
    return claimed_s > _ELSEWHERE * max(0.0, whole.saving + _error(whole, tolerance))


def _error(whole: CallTime, tolerance: Tolerance) -> float:
    """Half the width of a pass's saving's 95 % interval, the spread between players included; seconds."""
    saved = whole.replicates[1:, 0] - whole.replicates[1:, 1]
    return Z95 * math.hypot(float(np.std(saved)), tolerance.spread * whole.baseline)


def explained(calls: Sequence[tuple[float, CallTime]]) -> NDArray[np.float64]:
    """Seconds that a pass can save by what an operator saves by itself, replicate by replicate.

    Args:
        calls: how often a pass makes a call, and its time.
    """
    saved = sum((n * (found.replicates[:, 0] - found.replicates[:, 1]) for n, found in calls), start=np.zeros(1))
    return _ELSEWHERE * np.maximum(0.0, saved)


def at_most(whole: CallTime, possible_s: NDArray[np.float64]) -> CallTime:
    """A pass's time with no more saved than can be, replicate by replicate."""
    least = whole.replicates[:, 0] - possible_s
    candidate = np.maximum(whole.replicates[:, 1], least)
    replicates = np.stack([whole.replicates[:, 0], candidate], axis=1)
    return replace(whole, replicates=replicates, borne_out=np.maximum(whole.shown, least))


def slower_in_company(pair: CallTime, alone: CallTime, tolerance: Tolerance, drift: float) -> bool:
    """Whether the baseline was certainly slower while the candidate lived.

    Args:
        pair: as measured against the candidate; enough blocks for their scatter to be known.
        alone: by the same player without one.
        tolerance: of what was timed.
        drift: relative, of the device.
    """
    log_ratio = math.log(pair.baseline / alone.baseline)
    error = float(np.std(np.log(pair.replicates[1:, 0]))) * math.sqrt(1 + pair.blocks / alone.blocks)
    return log_ratio - Z95 * error > math.log1p(tolerance.dead_band) + drift


def beyond_roofline(found: CallTime, impossible_s: float, tolerance: Tolerance) -> bool:
    """Whether a call certainly took less than any can.

    Never where the baseline seems to do so too: then it is the bound that is wrong.

    Args:
        found: of one case.
        impossible_s: below which nothing can be.
        tolerance: of the operator.
    """
    slowest = float(np.quantile(found.replicates[1:, 1], 0.975)) * (1 + Z95 * tolerance.spread) + found.resolution
    return slowest < impossible_s <= found.baseline


def upper_seconds(time: CallTime) -> float:
    """The upper end of the 95 % interval of a baseline's call."""
    return max(time.baseline, float(np.quantile(time.replicates[1:, 0], 0.975)))
