import json
from typing import Any

import pytest

from fastkernels_gym.agent import Usage
from fastkernels_gym.evals import Rollout, summarise, summary_table
from fastkernels_gym.results import Evaluation, Verdict

L1, L4 = "L1/rms_norm@tiny-llama", "L4/llama@tiny-llama"


def rollout(evaluation: Evaluation | None, task: str = L1, sample: int = 0, turn: int = 0, **changes: Any) -> Rollout:
    key = f"{task}#{sample}.{turn}"
    return Rollout(key, task, sample, turn, "scripted", evaluation=evaluation, **changes)


def test_best_turn_of_a_sample_counts(scripted: Any) -> None:
    turns = [
        rollout(scripted.evaluation(speedup=1.2, e2e=1.1), turn=0),
        rollout(scripted.evaluation(speedup=3.0, e2e=1.2), turn=1),
        rollout(scripted.evaluation(verdict=Verdict.WRONG_VALUE), turn=2),
        rollout(None, turn=3, error="the reply holds no candidate"),
    ]
    found = summarise(turns)
    level = found.levels[0]
    assert (level.level, level.tasks, level.correct) == ("L1", 1, 1.0)
    assert level.op_speedup == pytest.approx(3.0) and level.e2e_speedup == pytest.approx(1.2)
    assert found.verdicts == {"no_candidate": 1, "ok": 2, "wrong_value": 1}


def test_samples_are_averaged_before_tasks(scripted: Any) -> None:
    good, wrong = scripted.evaluation(speedup=2.5), scripted.evaluation(verdict=Verdict.WRONG_VALUE)
    other = scripted.evaluation("L1/linear@tiny-llama", speedup=0.5)
    turns = [rollout(good), rollout(wrong, sample=1), rollout(other, task=other.task)]
    level = summarise(turns).levels[0]
    assert level.tasks == 2
    assert level.correct == pytest.approx(0.75)
    assert level.fast_p == pytest.approx({0.0: 0.75, 1.0: 0.25, 1.5: 0.25, 2.0: 0.25})
    assert level.op_speedup == pytest.approx((2.5 * 0.5) ** 0.5)


@pytest.mark.parametrize(("speedup", "fast"), ((1.005, 0.0), (1.02, 1.0)))
def test_interval_and_not_its_middle_proves_a_speedup(scripted: Any, speedup: float, fast: float) -> None:
    level = summarise([rollout(scripted.evaluation(speedup=speedup))]).levels[0]
    assert level.fast_p[1.0] == fast


def test_end_to_end_speedup_has_thresholds_of_its_own(scripted: Any) -> None:
    level = summarise([rollout(scripted.evaluation(speedup=1.0, e2e=1.03))]).levels[0]
    assert level.fast_p_e2e == {1.0: 1.0, 1.01: 1.0, 1.05: 0.0}
    assert level.fast_p[1.0] == 0.0


def test_model_counts_by_its_end_to_end_speedup(scripted: Any) -> None:
    level = summarise([rollout(scripted.evaluation(L4, speedup=9.0, e2e=1.6), task=L4)]).levels[0]
    assert level.level == "L4"
    assert level.fast_p == {0.0: 1.0, 1.0: 1.0, 1.5: 1.0, 2.0: 0.0}
    assert level.op_speedup == pytest.approx(1.6)


@pytest.mark.parametrize(("verdict", "stable"), ((Verdict.BEYOND_ROOFLINE, True), (Verdict.OK, False)))
def test_timing_that_cannot_be_trusted_proves_nothing(scripted: Any, verdict: Verdict, stable: bool) -> None:
    level = summarise([rollout(scripted.evaluation(verdict=verdict, speedup=50.0, e2e=2.0, stable=stable))]).levels[0]
    assert level.correct == 1.0
    assert level.fast_p == {0.0: 1.0, 1.0: 0.0, 1.5: 0.0, 2.0: 0.0}
    assert level.op_speedup == 1.0


def test_what_infrastructure_lost_counts_nowhere_but_there(scripted: Any) -> None:
    turns = [
        rollout(scripted.evaluation(verdict=Verdict.INFRA_ERROR)),
        rollout(None, task=L4, llm="some-llm", error="HTTP 500"),
        rollout(scripted.evaluation(), sample=1, usage=Usage(10, 0, 5)),
    ]
    found = summarise(turns, missing=2)
    assert (found.turns, found.lost, found.missing, found.tokens) == (3, 2, 2, 15)
    assert [(level.level, level.tasks, level.correct) for level in found.levels] == [("L1", 1, 1.0), ("all", 1, 1.0)]


def test_summary_is_json_and_a_table_even_of_nothing(scripted: Any) -> None:
    assert summarise([]).levels == ()
    assert summary_table(summarise([])).row_count == 0
    found = summarise([rollout(scripted.evaluation()), rollout(None, task=L4, error="no file")])
    assert json.loads(json.dumps(found.to_dict()))["levels"][0]["fast_p"]["1.0"] == 0.0
    assert summary_table(found).row_count == 3
