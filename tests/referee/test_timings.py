"""Intervals that say how far apart players are, not only how noisy their windows were."""

from __future__ import annotations

import math
import random

import numpy as np

from fastkernels_gym.referee.calibration import Calibration
from fastkernels_gym.referee.clock import CallTime, speedup
from fastkernels_gym.referee.timings import Precision, widened
from fastkernels_gym.results import Estimate


def pair(rng: random.Random, ratio: float, *, spread: float, error: float) -> CallTime:
    """What the clock makes of two players, one of them `ratio` times as fast: an offset of the pair, then noise."""
    offset = math.log(ratio) + rng.gauss(0, spread) + rng.gauss(0, error)
    noise = np.array([0.0, *(rng.gauss(0, error) for _ in range(400))])
    return CallTime(np.stack([np.ones(401), np.exp(-offset + noise)], axis=1))


def coverage(ratio: float, *, spread: float, stated: float) -> float:
    rng = random.Random(0)
    held = 0
    for _ in range(300):
        estimate = speedup([pair(rng, ratio, spread=spread, error=0.002)], [1.0])
        low, high = widened(estimate, stated)
        held += low <= ratio <= high
    return held / 300


def test_intervals_hold_what_is_true_whatever_players_differ_by() -> None:
    for ratio in (1.0, 1 / 1.01, 1 / 1.02, 1 / 1.05, 1 / 1.1, 1.5):
        assert coverage(ratio, spread=0.004, stated=0.004) >= 0.92
    # The noise of windows alone does not tell how far apart two players are.
    assert coverage(1.0, spread=0.004, stated=0.0) < 0.8


def test_an_interval_without_spread_is_left_as_it_is() -> None:
    low, high = widened(Estimate(1.2, (1.1, 1.4)), 0.0)
    assert math.isclose(low, 1.1) and math.isclose(high, 1.4)


def test_no_device_is_unstable_by_its_players_alone() -> None:
    precision = Precision(0.005, 0.003, 0.02, Calibration.default("cuda"))
    for spread in (0.0, 0.004, 0.02, 0.1):
        estimate = Estimate(1.0, (0.997, 1.003))
        assert precision.suffices(Estimate(1.0, widened(estimate, spread)), spread)
    assert not precision.suffices(Estimate(1.0, widened(Estimate(1.0, (0.97, 1.03)), 0.004)), 0.004)
