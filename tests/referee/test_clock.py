"""What the clock makes of windows whose true times are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fastkernels_gym.referee import clock
from fastkernels_gym.referee.clock import CallTime, Duel, call_time, speedup

FIXED = 400e-6


def player(rng: random.Random, call_s: float, *, fixed: Callable[[int], float] = lambda n: FIXED, noise: float = 0.01):
    def burst(n: int) -> float:
        return (fixed(n) + n * call_s) * (1 + noise * rng.gauss(0, 1))

    return burst


def measure(baseline, candidate, calls: int = 32, blocks: int = 60, fixed_s: float = 0.0) -> CallTime:
    duel = Duel(baseline, candidate, calls, random.Random(0), fixed_s=fixed_s)
    for _ in range(blocks):
        duel.block()
    return call_time(duel.samples)


def test_a_known_speedup_is_found_within_its_interval() -> None:
    covered = 0
    for seed in range(20):
        rng = random.Random(seed)
        found = speedup([measure(player(rng, 60e-6), player(rng, 50e-6))], [1.0])
        assert 1.1 < found.speedup < 1.3
        covered += found.ci95[0] <= 1.2 <= found.ci95[1]
    assert covered >= 15


def test_equals_measure_as_equal() -> None:
    rng = random.Random(1)
    found = speedup([measure(player(rng, 50e-6), player(rng, 50e-6))], [1.0])
    assert abs(found.speedup - 1) < 0.03 and found.ci95[0] <= 1 <= found.ci95[1]


def test_dragging_out_the_short_windows_earns_nothing() -> None:
    """A slope over n alone would call this player infinitely fast."""
    rng = random.Random(2)
    cheat = player(rng, 50e-6, fixed=lambda n: FIXED + (1500e-6 if n == 1 else 0.0))
    assert speedup([measure(player(rng, 50e-6), cheat)], [1.0]).speedup < 1.1


def test_a_player_with_higher_fixed_costs_is_not_slower() -> None:
    """Single calls that cost more bound a saving; they are no loss."""
    rng = random.Random(5)
    slower = player(rng, 2e-6, fixed=lambda n: 1.1 * FIXED, noise=0.001)
    equal = speedup([measure(player(rng, 2e-6, noise=0.001), slower, 512, fixed_s=0.1 * FIXED)], [1.0])
    assert abs(equal.speedup - 1) < 0.02
    much_slower = player(rng, 2e-6, fixed=lambda n: 1.5 * FIXED, noise=0.001)
    assert speedup([measure(player(rng, 2e-6, noise=0.001), much_slower, 512)], [1.0]).speedup > 0.97


def test_working_a_burst_off_at_once_earns_nothing() -> None:
    """The first call of a burst does the others' work: single calls show that nothing is faster."""
    rng = random.Random(6)
    cheat = player(rng, 0.0, fixed=lambda n: FIXED + 1e-3)
    assert speedup([measure(player(rng, 1e-3), cheat, fixed_s=0.1 * FIXED)], [1.0]).speedup < 1.2


def test_a_saving_that_single_calls_leave_open_is_not_proven() -> None:
    """Of a call of 20 us in windows that scatter by 100: batched or faster, single calls cannot tell."""
    for seed in range(10):
        rng = random.Random(seed)
        honest = player(rng, 20e-6, fixed=lambda n: 1e-3, noise=0.1)
        batched = player(rng, 1e-6, fixed=lambda n: 1e-3 + 19e-6, noise=0.1)
        assert speedup([measure(honest, batched, calls=512)], [1.0]).ci95[0] < 1.2


def test_a_true_saving_of_small_calls_is_proven_by_more_single_calls() -> None:
    """Once the bursts have said enough, time goes to what they leave open."""

    def duel(noise: float) -> Duel:
        rng = random.Random(8)
        faster = player(rng, 25e-6, fixed=lambda n: 1e-3, noise=noise)
        return Duel(player(rng, 50e-6, fixed=lambda n: 1e-3, noise=noise), faster, 512, rng)

    noisy = duel(0.02)
    (found,) = clock.measure([noisy], seconds=30.0, half_width=0.03)
    estimate = speedup([found], [1.0])
    assert abs(estimate.speedup - 2) < 0.1 and estimate.half_width <= 0.03
    assert len(noisy.samples.single) > noisy.samples.blocks
    quiet = duel(0.001)
    clock.measure([quiet], seconds=30.0, half_width=0.03)
    assert not quiet.samples.single


def test_a_single_call_is_timed_by_its_windows() -> None:
    rng = random.Random(3)
    found = speedup([measure(player(rng, 10e-3), player(rng, 8e-3), calls=1)], [1.0])
    assert abs(found.speedup - 10.4 / 8.4) < 0.02


def test_cases_are_weighted_by_their_calls() -> None:
    rng = random.Random(4)
    slow = measure(player(rng, 100e-6, noise=0.001), player(rng, 100e-6, noise=0.001))
    fast = measure(player(rng, 100e-6, noise=0.001), player(rng, 50e-6, noise=0.001))
    assert abs(speedup([slow, fast], [1.0, 1.0]).speedup - 200 / 150) < 0.03
    assert abs(speedup([slow, fast], [9.0, 1.0]).speedup - 1000 / 950) < 0.03


@pytest.mark.parametrize("slower", [0.01, 0.02, 0.05, 0.1])
def test_a_known_slow_down_is_measured_within_its_interval(slower: float) -> None:
    """Of operators of 3 and of 60 us, and of a whole pass."""
    for calls, call_s in ((512, 3e-6), (32, 60e-6), (1, 6e-3)):
        covered = 0
        for seed in range(20):
            rng = random.Random(seed)
            time = measure(
                player(rng, call_s, noise=0.003), player(rng, call_s * (1 + slower), noise=0.003), calls, 20, 0.1
            )
            found = speedup([time], [1.0])
            true = (1 + slower) if calls > 1 else (FIXED + call_s * (1 + slower)) / (FIXED + call_s)
            covered += found.ci95[0] <= 1 / true <= found.ci95[1]
        assert covered >= 15


def test_blocks_of_a_slowed_device_are_measured_again() -> None:
    rng = random.Random(7)
    # Of the first ten blocks the candidate's windows take half the time: the device was slowed for the baseline.
    made = 0

    def slowed() -> bool:
        nonlocal made
        made += 1
        return made <= 10

    def baseline(n: int) -> float:
        return player(rng, 10e-3)(n) * (2 if made < 10 else 1)

    duel = Duel(baseline, player(rng, 10e-3), 1, rng, slowed=slowed)
    (found,) = clock.measure([duel], seconds=5.0, half_width=0.01)
    assert found.discarded == 10 and found.slowed == 0
    assert abs(speedup([found], [1.0]).speedup - 1) < 0.02

    # One that is never well gives what it can, and says so.
    duel = Duel(player(rng, 10e-3), player(rng, 10e-3), 1, rng, slowed=lambda: True)
    (found,) = clock.measure([duel], seconds=0.01, half_width=0.0)
    assert found.blocks == found.slowed == 3


@pytest.mark.parametrize("calls", [1, 16])
def test_a_switch_of_players_settles_first_and_each_is_left_in_quiet(calls: int) -> None:
    seen: list[str] = []

    @contextmanager
    def quiet(player: int) -> Iterator[None]:
        seen.append(f"quiet{player}")
        yield
        seen.append("end")

    def window(name: str):
        def run(n: int) -> float:
            seen.append(name)
            return 1.0

        return run

    duel = Duel(
        window("baseline"),
        window("candidate"),
        calls,
        random.Random(0),
        settle=lambda player: seen.append(f"settle{player}"),
        quiet=quiet,
    )
    for _ in range(4):
        duel.block()
    windows = [name for name in seen if name in ("baseline", "candidate")]
    assert len(windows) == (16 if calls == 1 else 32) and sum(name.startswith("settle") for name in seen) == 16
    for index, name in enumerate(seen):
        if name.startswith("settle"):
            assert seen[index - 1] == f"quiet{name[-1]}" and seen[index + 1] == ("baseline", "candidate")[int(name[-1])]
        if name in ("baseline", "candidate"):
            assert [one for one in seen[:index] if "quiet" in one or one == "end"][-1] == (
                "quiet0" if name == "baseline" else "quiet1"
            )
