"""Timings that contradict each other are found out, and those of honest kernels never are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_gym.referee.calibration import Tolerance
from fastkernels_gym.referee.clock import CallTime, Duel, call_time, speedup
from fastkernels_gym.referee.consistency import (
    DRIFT,
    at_most,
    explained,
    rests_on_grant,
    saves_more,
    slower_in_company,
    unseen,
)

E2E = Tolerance(0.004, 0.01)
PASS_S = 6e-3


def windows(rng: random.Random, seconds: float, *, noise: float, offset: float = 0.0):
    return lambda n: seconds * (1 + offset) * (1 + noise * rng.gauss(0, 1))


def bursts(rng: random.Random, baseline_s: float, candidate_s: float, single_s: float) -> CallTime:
    """As the device's own clock times them, in windows of a millisecond; of one call and of 512."""

    def player(call_s: float, alone_s: float):
        return lambda n: 0.9e-3 + rng.gauss(0, 1e-6) + (alone_s if n == 1 else n * call_s)

    duel = Duel(player(baseline_s, baseline_s), player(candidate_s, single_s), 512, rng, fixed_s=1.5e-6)
    for _ in range(12):
        duel.block()
    return call_time(duel.samples)


def passes(rng: random.Random, baseline_s: float, candidate_s: float, noise: float, blocks: int = 20) -> CallTime:
    offset = rng.gauss(0, E2E.spread)
    duel = Duel(windows(rng, baseline_s, noise=noise), windows(rng, candidate_s, noise=noise, offset=offset), 1, rng)
    for _ in range(blocks):
        duel.block()
    return call_time(duel.samples)


@given(st.integers(0, 2**32), st.floats(0.01, 0.9), st.floats(0.0, 1.0), st.sampled_from([0.002, 0.01, 0.03]))
@settings(max_examples=150)
def test_an_honest_saving_is_never_doubted(seed: int, share: float, won: float, noise: float) -> None:
    """Whatever share of the pass an operator has, and whatever part of it is won."""
    rng = random.Random(seed)
    found = passes(rng, PASS_S, PASS_S * (1 - share * won), noise)
    assert not saves_more(found, share * PASS_S, E2E)


@given(st.integers(0, 2**32), st.floats(0.001, 0.3), st.floats(0.05, 0.6))
def test_a_saving_made_elsewhere_is_found_out(seed: int, share: float, elsewhere: float) -> None:
    found = passes(random.Random(seed), PASS_S, PASS_S * (1 - elsewhere), 0.005)
    assert saves_more(found, share * PASS_S, E2E) or elsewhere - share < 0.035


@given(st.integers(0, 2**32), st.floats(-0.02, 0.02), st.sampled_from([0.002, 0.01, 0.03]))
@settings(max_examples=150)
def test_a_baseline_that_drifts_is_not_doubted(seed: int, drift: float, noise: float) -> None:
    rng = random.Random(seed)
    pair = passes(rng, PASS_S * (1 + drift), PASS_S / 1.3, noise)
    alone = passes(rng, PASS_S, PASS_S, noise, blocks=3)
    assert not slower_in_company(pair, alone, E2E, DRIFT["cuda"])


@pytest.mark.parametrize("slowed", [1.1, 1.3, 3.0])
def test_a_baseline_that_is_slow_only_in_company_is_found_out(slowed: float) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        pair = passes(rng, PASS_S * slowed, PASS_S, 0.01)
        assert slower_in_company(pair, passes(rng, PASS_S, PASS_S, 0.01, blocks=3), E2E, DRIFT["cuda"])


def test_a_burst_has_the_same_questions() -> None:
    rng = random.Random(0)

    def burst(call_s: float):
        return lambda n: (400e-6 + n * call_s) * (1 + 0.003 * rng.gauss(0, 1))

    def measured(baseline_s: float, blocks: int) -> CallTime:
        duel = Duel(burst(baseline_s), burst(40e-6), 50, rng)
        for _ in range(blocks):
            duel.block()
        return call_time(duel.samples)

    assert slower_in_company(measured(60e-6, 20), measured(50e-6, 3), E2E, DRIFT["cuda"])
    assert not slower_in_company(measured(50e-6, 20), measured(50e-6, 3), E2E, DRIFT["cuda"])


@pytest.mark.parametrize("call_s", [2.7e-6, 10e-6, 30e-6])
def test_work_batched_over_a_burst_rests_on_grant(call_s: float) -> None:
    for seed in range(20):
        batched = bursts(random.Random(seed), call_s, 0.1e-6, single_s=call_s)
        assert batched.saving <= 4e-6 and rests_on_grant(batched)


@pytest.mark.parametrize("call_s", [15e-6, 50e-6])
def test_a_saving_that_single_calls_prove_does_not(call_s: float) -> None:
    for seed in range(20):
        assert not rests_on_grant(bursts(random.Random(seed), call_s, call_s / 2, single_s=call_s / 2))
        assert not rests_on_grant(bursts(random.Random(seed), call_s, 1.2 * call_s, single_s=1.2 * call_s))


@pytest.mark.parametrize("warm", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("won", [0.002, 0.02, 0.3])
def test_what_a_pass_shows_is_hardly_ever_unseen(won: float, warm: float) -> None:
    """Bursts run cold, passes do not: either may save more. Of equal players 2.5 % are slower than the spread tells."""
    doubted = sum(
        unseen(passes(random.Random(seed), PASS_S, PASS_S * (1 - won), 0.005), won * PASS_S / warm, E2E)
        for seed in range(150)
    )
    assert doubted <= 6


@given(st.integers(0, 2**32), st.floats(0.1, 0.6), st.floats(0.0, 0.2))
@settings(max_examples=150)
def test_a_saving_that_bursts_alone_show_is_found_out(seed: int, claimed: float, true: float) -> None:
    found = passes(random.Random(seed), PASS_S, PASS_S * (1 - claimed * true), 0.003)
    assert unseen(found, claimed * PASS_S, E2E)


@pytest.mark.parametrize("warm", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("won", [0.1, 0.5])
def test_what_an_operator_saves_counts_in_full(won: float, warm: float) -> None:
    """Sixty-four calls of a pass, each faster; where data are warm it may be more or less."""
    share, calls = 0.4, 64
    call_s = share * PASS_S / calls
    for seed in range(20):
        rng = random.Random(seed)
        whole = passes(rng, PASS_S, PASS_S * (1 - share * won * warm), 0.005)
        alone = bursts(rng, call_s, call_s * (1 - won), single_s=call_s * (1 - won))
        assert at_most(whole, explained([(calls, alone)])).candidate == whole.candidate


@given(st.integers(0, 2**32), st.floats(0.02, 0.4), st.floats(1.0, 1.1))
def test_what_others_save_does_not_count(seed: int, elsewhere: float, slower: float) -> None:
    """By less than the operator's own share of a pass, which is no faster or a little slower itself."""
    rng, calls, call_s = random.Random(seed), 64, 0.4 * PASS_S / 64
    whole = passes(rng, PASS_S, PASS_S * (1 - elsewhere), 0.005)
    alone = bursts(rng, call_s, slower * call_s, single_s=slower * call_s)
    found = speedup([at_most(whole, explained([(calls, alone)]))], [1.0])
    assert found.ci95[0] <= 1 + E2E.dead_band and found.speedup <= 1 + E2E.dead_band
