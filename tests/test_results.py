"""Evaluations survive JSON, and the impossible ones cannot be built."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.results import CaseTiming, Correctness, EndToEnd, Evaluation, PhaseTiming, Rung, Seconds, Verdict

times = st.floats(min_value=1e-3, max_value=1e9)
text = st.text(max_size=20)


@st.composite
def intervals(draw: st.DrawFn) -> tuple[float, tuple[float, float]]:
    low, middle, high = sorted(draw(st.tuples(times, times, times)))
    return middle, (low, high)


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    verdict = draw(st.sampled_from(list(Verdict)))
    timed = verdict.correct is True
    speedup, ci95 = draw(intervals())
    cases = tuple(draw(st.lists(st.builds(CaseTiming, text, text, st.integers(1, 99), times, times), max_size=2)))
    rung = Rung(speedup, ci95, "L1/rms_norm", draw(times), draw(times), draw(st.none() | times), cases)
    phases = {"decode": PhaseTiming(3, draw(times), draw(times))}
    return Evaluation(
        task="L1/rms_norm@tiny-llama",
        verdict=verdict,
        replaces=tuple(draw(st.lists(text, max_size=2))),
        stable=draw(st.booleans()),
        dead_band=draw(st.floats(0, 1)),
        reward=0.0 if verdict is Verdict.INFRA_ERROR else draw(st.floats(-9, 9)),
        ladder=(rung,) if timed else (),
        e2e=EndToEnd(speedup, ci95, draw(times), draw(times), (4, 4), phases) if timed else None,
        correctness=Correctness(3, draw(times), draw(times), draw(text)) if timed else None,
        seconds=Seconds(draw(times)),
        warnings=tuple(draw(st.lists(text, max_size=2))),
        feedback=draw(text),
    )


@given(evaluations())
def test_json_keeps_everything(evaluation: Evaluation) -> None:
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


@given(evaluations())
def test_the_schema_leads_with_what_is_looked_up_first(evaluation: Evaluation) -> None:
    data = json.loads(evaluation.to_json())
    assert list(data)[:2] == ["schema", "task"]
    assert data["schema"] == 1 and data["correct"] == evaluation.correct


@given(evaluations())
def test_evaluations_of_before_the_dead_band_are_read(evaluation: Evaluation) -> None:
    data = evaluation.to_dict()
    del data["dead_band"], data["paid"]
    assert Evaluation.from_json(json.dumps(data)) == evaluation.replace(dead_band=0.0)


@pytest.mark.parametrize(
    ("low", "dead_band", "kind", "paid"),
    [(1.02, 0.01, "e2e", True), (1.02, 0.02, "e2e", False), (0.99, 0.0, "e2e", False), (1.02, 0.01, "op", False)],
)
def test_paid_is_what_lies_above_the_dead_band(low: float, dead_band: float, kind: str, paid: bool) -> None:
    whole = EndToEnd(1.03, (low, 1.04), 1.0, 1.0, (4, 4))
    rung = Rung(1.0, (0.9, 1.1), "L1/rms_norm", 1.0, 1.0)
    task, correctness = "L1/rms_norm@tiny-llama", Correctness(1, 1.0, 1.0, "")
    found = Evaluation(
        task, Verdict.OK, reward_kind=kind, dead_band=dead_band, e2e=whole, ladder=(rung,), correctness=correctness
    )
    assert found.paid is found.to_dict()["paid"] is paid
    assert not found.replace(verdict=Verdict.TIMING_INCONSISTENT).paid and not found.replace(stable=False).paid


@given(st.text(max_size=50) | st.binary(max_size=50))
def test_anything_else_is_a_value_error(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        Evaluation.from_json(data)


def test_impossible_states_cannot_be_built() -> None:
    rung = Rung(1.0, (0.9, 1.1), "L1/rms_norm", 1.0, 1.0)
    for state in (
        {"verdict": Verdict.WRONG_VALUE, "ladder": (rung,)},
        {"verdict": Verdict.OK},
        {"verdict": Verdict.INFRA_ERROR, "reward": 1.0},
        {"verdict": Verdict.WRONG_VALUE, "reward": float("nan")},
        {"verdict": Verdict.WRONG_VALUE, "dead_band": -0.1},
    ):
        with pytest.raises(ValueError):
            Evaluation("L1/rms_norm@tiny-llama", **state)
    with pytest.raises(ValueError):
        Rung(1.0, (1.1, 0.9), "L1/rms_norm", 1.0, 1.0)
