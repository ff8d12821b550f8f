import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agreement import disagreements
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.agent import Usage
from fastkernels_gym.evals import Rollout, RunFolder, summarise, summary_table
from fastkernels_gym.evals.archive import read_run
from fastkernels_gym.evals.bootstrap import Mean, means
from fastkernels_gym.evals.metrics import at_least_one
from fastkernels_gym.evals.report import write_report
from fastkernels_gym.evals.tally import Tally
from fastkernels_gym.results import Evaluation, Verdict

L1, L4 = "L1/rms_norm@tiny-llama", "L4/llama@tiny-llama"


def rollout(evaluation: Evaluation | None, task: str = L1, sample: int = 0, turn: int = 0, **changes: Any) -> Rollout:
    key = f"{task}#{sample}.{turn}"
    return Rollout(key, task, sample, turn, "scripted", evaluation=evaluation, **changes)


def value(mean: Mean | None) -> float:
    assert mean is not None
    return mean.value


def values(found: Mapping[float, Mean]) -> dict[float, float]:
    return {p: mean.value for p, mean in found.items()}


def test_best_turn_of_a_sample_counts(scripted: Any) -> None:
    turns = [
        rollout(scripted.evaluation(speedup=1.2, e2e=1.1), turn=0),
        rollout(scripted.evaluation(speedup=3.0, e2e=1.2), turn=1),
        rollout(scripted.evaluation(verdict=Verdict.WRONG_VALUE), turn=2),
        rollout(None, turn=3, error="the reply holds no candidate"),
    ]
    found = summarise(turns)
    level = found.levels[0]
    assert (level.name, level.tasks, level.correct.value) == ("L1", 1, 1.0)
    assert value(level.op_speedup) == pytest.approx(3.0) and value(level.e2e_speedup) == pytest.approx(1.2)
    assert found.verdicts == {"no_candidate": 1, "ok": 2, "wrong_value": 1}


def test_samples_are_averaged_before_tasks(scripted: Any) -> None:
    good, wrong = scripted.evaluation(speedup=2.5), scripted.evaluation(verdict=Verdict.WRONG_VALUE)
    other = scripted.evaluation("L1/linear@tiny-llama", speedup=0.5)
    turns = [rollout(good), rollout(wrong, sample=1), rollout(other, task=other.task)]
    level = summarise(turns).levels[0]
    assert level.tasks == 2
    assert level.correct.value == pytest.approx(0.75)
    assert values(level.fast_p) == pytest.approx({0.0: 0.75, 1.0: 0.25, 1.5: 0.25, 2.0: 0.25})
    assert value(level.op_speedup) == pytest.approx((2.5 * 0.5) ** 0.5)
    assert value(level.op_speedup_all) == pytest.approx((2.5**0.5 * 0.5) ** 0.5)


@pytest.mark.parametrize(("speedup", "fast"), ((1.005, 0.0), (1.02, 1.0)))
def test_interval_and_not_its_middle_proves_a_speedup(scripted: Any, speedup: float, fast: float) -> None:
    level = summarise([rollout(scripted.evaluation(speedup=speedup))]).levels[0]
    assert level.fast_p[1.0].value == fast


def test_end_to_end_speedup_has_thresholds_of_its_own(scripted: Any) -> None:
    level = summarise([rollout(scripted.evaluation(speedup=1.0, e2e=1.03))]).levels[0]
    assert values(level.fast_p_e2e) == {1.0: 1.0, 1.01: 1.0, 1.05: 0.0}
    assert level.fast_p[1.0].value == 0.0


def test_model_counts_by_its_end_to_end_speedup(scripted: Any) -> None:
    level = summarise([rollout(scripted.evaluation(L4, speedup=9.0, e2e=1.6), task=L4)]).levels[0]
    assert level.name == "L4"
    assert values(level.fast_p) == {0.0: 1.0, 1.0: 1.0, 1.5: 1.0, 2.0: 0.0}
    assert value(level.op_speedup) == pytest.approx(1.6)


@pytest.mark.parametrize(("verdict", "stable"), ((Verdict.BEYOND_ROOFLINE, True), (Verdict.OK, False)))
def test_timing_that_cannot_be_trusted_proves_nothing(scripted: Any, verdict: Verdict, stable: bool) -> None:
    level = summarise([rollout(scripted.evaluation(verdict=verdict, speedup=50.0, e2e=2.0, stable=stable))]).levels[0]
    assert level.correct.value == 1.0
    assert values(level.fast_p) == {0.0: 1.0, 1.0: 0.0, 1.5: 0.0, 2.0: 0.0}
    assert value(level.op_speedup) == 1.0


def test_what_infrastructure_lost_counts_nowhere_but_there(scripted: Any) -> None:
    turns = [
        rollout(scripted.evaluation(verdict=Verdict.INFRA_ERROR)),
        rollout(None, task=L4, llm="some-llm", error="HTTP 500"),
        rollout(scripted.evaluation(), sample=1, usage=Usage(10, 0, 5)),
    ]
    found = summarise(turns, missing=2)
    assert (found.turns, found.lost, found.missing, found.spent.tokens) == (3, 2, 2, 15)
    assert [(level.name, level.tasks, level.correct.value) for level in found.levels] == [
        ("L1", 1, 1.0),
        ("all", 1, 1.0),
    ]


def test_summary_is_json_and_a_table_even_of_nothing(scripted: Any) -> None:
    assert summarise([]).levels == ()
    assert summary_table(summarise([])).row_count == 0
    found = summarise([rollout(scripted.evaluation()), rollout(None, task=L4, error="no file")])
    assert json.loads(json.dumps(found.to_dict()))["levels"][0]["fast_p"]["1.0"]["value"] == 0.0
    assert summary_table(found).row_count == 3


def test_summary_and_page_agree_with_an_independent_recomputation(scripted: Any, tmp_path: Path) -> None:
    path = scripted.population().write(tmp_path / "run")
    run = read_run(path)
    tally = Tally(run.rollouts())
    with RunFolder(path, run.config, resume=True) as folder:
        folder.summarise(summarise(tally).to_dict())
    write_report(run, path / "report.html")
    assert disagreements(path) == []
    overall = summarise(tally).overall
    assert overall is not None
    assert 0 < overall.fast_p[1.0].value < overall.correct.value < 1, "the run is one in which figures differ"
    page = (path / "report.html").read_text()
    (path / "report.html").write_text(page.replace(f"{overall.correct.value:.0%}", "99%"))
    assert disagreements(path), "a page that says otherwise is found out"


def test_samples_improve_from_turn_to_turn(scripted: Any) -> None:
    turns = [
        rollout(scripted.evaluation(verdict=Verdict.WRONG_VALUE), turn=0),
        rollout(scripted.evaluation(speedup=2.0), turn=1),
        rollout(scripted.evaluation(verdict=Verdict.TIMEOUT), turn=2),
        rollout(scripted.evaluation(L4, e2e=1.5), task=L4),
    ]
    found = summarise(turns).by_turn
    assert [turn.correct.value for turn in found] == [0.5, 1.0, 1.0]
    assert [turn.op_speedup_all.value for turn in found] == pytest.approx([1.5**0.5, 3**0.5, 3**0.5])


def test_model_that_was_not_measured_has_no_figures(scripted: Any) -> None:
    found = summarise([rollout(scripted.evaluation(verdict=Verdict.WRONG_VALUE))], measure="op").levels[0]
    assert (found.fast_p_e2e, found.fast_p_e2e_at, found.e2e_speedup_all) == ({}, {}, None)
    assert values(summarise([rollout(None)]).levels[0].fast_p_e2e) == {1.0: 0.0, 1.01: 0.0, 1.05: 0.0}


@given(n=st.integers(1, 12), data=st.data())
def test_chance_of_a_good_sample_is_that_of_drawing_one(n: int, data: st.DataObject) -> None:
    from itertools import combinations

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    drawn = [min(indices) < c for indices in combinations(range(n), k)]
    assert at_least_one(n, c, k) == pytest.approx(sum(drawn) / len(drawn))


def test_intervals_hold_what_they_should() -> None:
    import numpy as np

    draw, hits = np.random.default_rng(1), 0
    for _ in range(200):
        mean = means([{"x": float(x)} for x in draw.normal(0.3, 1.0, 60)])["x"]
        assert mean.ci95 is not None
        hits += mean.ci95[0] <= 0.3 <= mean.ci95[1]
    assert 0.9 <= hits / 200 <= 0.99


def test_value_that_few_tasks_have_is_a_mean_over_those() -> None:
    found = means([{"a": 1.0}, {"a": 3.0, "b": 5.0}])
    assert (found["a"].value, found["a"].tasks) == (2.0, 2)
    assert found["b"] == Mean(5.0, None, 1)


def test_dollars_add_up_where_turns_say_what_they_cost(scripted: Any) -> None:
    good, bad = scripted.evaluation(), scripted.evaluation(verdict=Verdict.TIMEOUT)
    found = summarise([rollout(good, dollars=0.25), rollout(bad, sample=1, dollars=0.5), rollout(bad, sample=2)])
    assert found.spent.dollars == 0.75 and found.per_correct is not None and found.per_correct.dollars == 0.75
    assert summarise([rollout(good)]).spent.dollars is None
