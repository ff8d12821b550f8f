"""What self-tests make of A/A runs, how long they count, and what holds without them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

import fastkernels_gym as fk
from fastkernels_gym.executor.selftest import Run, SelfTest, chosen_tasks, self_test
from fastkernels_gym.referee.calibration import FEWEST_RUNS, Calibration, Figures, Kind
from fastkernels_gym.referee.device_state import Identity

DATE = "2026-01-01T00:00:00+00:00"
DEVICE = Identity("A GPU", "GPU-1", "580", "2.11")


def aa_runs(spread: float, error: float, count: int = 200) -> list[tuple[float, float]]:
    rng = random.Random(0)
    return [(rng.gauss(0, math.hypot(spread, error)), error) for _ in range(count)]


@pytest.mark.parametrize(("spread", "error"), [(0.004, 0.002), (0.0, 0.003), (0.01, 0.001)])
def test_players_that_differ_are_told_from_noise(spread: float, error: float) -> None:
    found = Figures.of(aa_runs(spread, error), DATE)
    assert abs(found.spread - spread) < 0.0015 + 0.2 * spread
    assert abs(found.sd - math.hypot(spread, error)) < 0.15 * found.sd
    # With the spread the stated intervals are 95 % ones; without it they are as far off as players differ.
    assert 0.9 < found.covered / found.runs < 0.99
    assert found.covered_alone < found.covered or spread == 0.0
    assert found.dead_band >= 2 * found.sd or found.dead_band == 0.002


@pytest.mark.parametrize("count", [10, 30])
def test_a_spread_found_in_few_runs_is_wide_enough_for_those_to_come(count: int) -> None:
    later = aa_runs(0.003, 0.001, 2000)
    held = []
    for begin in range(0, len(later), count):
        spread = Figures.of(later[begin : begin + count], DATE).spread
        held += [abs(log) <= 1.96 * math.hypot(error, spread) for log, error in later[begin + count :] + later[:begin]]
    assert sum(held) / len(held) > 0.95


def test_what_was_tested_holds_on_that_device_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    test = SelfTest.start("cpu", 1.0)
    test.identity = DEVICE
    for index in range(FEWEST_RUNS):
        ratio = 1.004 if index % 2 else 1 / 1.004
        test.add(Run("L4/llama@tiny-llama", Kind.E2E, "ok", ratio, (ratio - 1e-4, ratio + 1e-4), 1.0))
    test.add(Run("L1/linear@tiny-llama", Kind.LONG, "ok", 1.3, (1.2, 1.4), 1.0))
    path = test.store()
    assert tmp_path in path.parents

    found = Calibration.stored("cuda", DEVICE)
    default = Calibration.default("cuda")
    # The tenth part of chi-square's ten degrees of freedom is 4.865: ten runs may understate by that.
    upper = 0.004 * math.sqrt(10 / 4.865)
    assert found.e2e.spread == pytest.approx(upper, rel=0.05) and found.e2e.dead_band == pytest.approx(0.008, rel=0.05)
    # A single run says nothing.
    assert found.tolerances[Kind.LONG] == default.tolerances[Kind.LONG] and Kind.LONG not in found.figures
    for other in (replace(DEVICE, driver="581"), replace(DEVICE, torch="2.12"), replace(DEVICE, uuid="GPU-2")):
        assert Calibration.stored("cuda", other).tolerances == default.tolerances

    # A later test that was interrupted early leaves what is known.
    early = SelfTest.start("cpu", 1.0)
    early.identity = DEVICE
    early.add(Run("L4/llama@tiny-llama", Kind.E2E, "ok", 1.5, (1.4, 1.6), 1.0))
    early.store()
    assert Calibration.stored("cuda", DEVICE).e2e == found.e2e

    for damaged in ("", "[]", '{"figures": {"e2e": {"runs": 99}}}', '{"figures": {"nothing": {}}}'):
        path.write_text(damaged)
        assert Calibration.stored("cuda", DEVICE).tolerances == default.tolerances


def test_an_operator_is_as_uncertain_as_its_cases_by_their_time() -> None:
    found = Calibration.default("cuda")
    long, short = found.tolerances[Kind.LONG], found.tolerances[Kind.SHORT]
    assert found.operator([(50.0, 300.0)]) == long and found.operator([(3.0, 300.0)]) == short
    mixed = found.operator([(50.0, 300.0), (3.0, 100.0)])
    assert mixed.spread == pytest.approx(0.75 * long.spread + 0.25 * short.spread)


def test_the_baseline_is_judged_against_itself(evaluator: fk.Evaluator) -> None:
    assert len(chosen_tasks([], "cuda")) == len(chosen_tasks([], "cpu")) == 3
    (task,) = chosen_tasks(["L1/silu_and_mul@tiny-llama"], "cpu")
    runs = list(self_test(evaluator, [task], 2, 0.2))
    assert [run.verdict for run in runs] == ["ok", "ok"]
    assert all(run.sample is not None and run.kind in (Kind.LONG, Kind.SHORT) for run in runs)
