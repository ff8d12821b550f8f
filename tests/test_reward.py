"""Rewards: what each kind pays, and that nothing untrusted pays more than the baseline earns."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.errors import UnmeasuredReward
from fastkernels_gym.results import Correctness, EndToEnd, Evaluation, Rung, Verdict
from fastkernels_gym.reward import reward

TASK = "L1/rms_norm@tiny-llama"
KINDS = ["e2e", "op", "log_e2e", "headroom", "lower_bound"]
SUSPECT = [Verdict.TIMING_INCONSISTENT, Verdict.BEYOND_ROOFLINE]
positive = st.floats(0.01, 100.0)


def judged(
    *,
    verdict: Verdict = Verdict.OK,
    stable: bool = True,
    e2e: float | None = 1.25,
    op: float = 2.0,
    roofline_us: float | None = 2000.0,
    task: str = TASK,
) -> Evaluation:
    """A workload of 100 ms in which the operator takes 10 ms and could take 2."""
    rung = Rung(op, (op * 0.9, op * 1.1), "L1/rms_norm", 10_000.0, 10_000.0 / op, roofline_us)
    full = None if e2e is None else EndToEnd(e2e, (e2e * 0.9, e2e * 1.1), 100.0, 100.0 / e2e, (4, 4))
    return Evaluation(
        task=task,
        verdict=verdict,
        stable=stable,
        e2e=full,
        ladder=() if task.startswith("L4/") else (rung,),
        correctness=Correctness(8, 1.1, 1.0, "zeros"),
    )


def test_each_kind_pays_what_it_names() -> None:
    evaluation = judged(e2e=1.25, op=2.0)
    assert reward(evaluation, "e2e") == 1.25
    assert reward(evaluation, "op") == 2.0
    assert reward(evaluation, "log_e2e") == pytest.approx(math.log(1.25))
    assert reward(evaluation, "lower_bound") == pytest.approx(1.125)
    assert reward(judged(e2e=100.0 / 96.0), "headroom") == pytest.approx(0.5)  # 4 of the 8 ms that can be won


def test_the_operator_of_a_whole_model_is_the_whole_model() -> None:
    assert reward(judged(task="L4/llama@tiny-llama", e2e=1.5), "op") == 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verdict", [v for v in Verdict if v.correct is False])
def test_an_incorrect_candidate_earns_the_failure_value(verdict: Verdict, kind: str) -> None:
    assert reward(Evaluation(TASK, verdict), kind) == 0.0
    assert reward(Evaluation(TASK, verdict), kind, failure=-1.0) == -1.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_infrastructure_error_is_not_the_candidates_failure(kind: str) -> None:
    assert reward(Evaluation(TASK, Verdict.INFRA_ERROR), kind, failure=-1.0) == 0.0


@given(e2e=positive, op=positive, verdict=st.sampled_from([Verdict.OK, *SUSPECT]), stable=st.booleans())
def test_untrusted_timings_never_pay_more_than_the_baseline_earns(
    e2e: float, op: float, verdict: Verdict, stable: bool
) -> None:
    evaluation = judged(e2e=e2e, op=op, verdict=verdict, stable=stable)
    if verdict is not Verdict.OK or not stable:
        for kind in KINDS:
            assert reward(evaluation, kind) <= (0.0 if kind in ("log_e2e", "headroom") else 1.0)
        assert reward(evaluation, "e2e") == min(1.0, e2e)  # a slow candidate still earns its own, lower, speedup


def test_what_was_not_measured_is_an_error_and_not_a_zero() -> None:
    for kind in ("e2e", "log_e2e", "headroom", "lower_bound"):
        with pytest.raises(UnmeasuredReward, match="end to end"):
            reward(judged(e2e=None), kind)
    with pytest.raises(UnmeasuredReward, match="operator"):
        reward(Evaluation(TASK, Verdict.OK, correctness=Correctness(1, 1.0, 1.0, "")), "op")
    with pytest.raises(UnmeasuredReward, match="roofline"):
        reward(judged(roofline_us=None), "headroom")
    with pytest.raises(UnmeasuredReward, match="roofline"):
        reward(judged(task="L4/llama@tiny-llama"), "headroom")


@pytest.mark.parametrize("verdict", SUSPECT)
def test_a_quarantined_evaluation_without_a_measurement_earns_the_failure_value(verdict: Verdict) -> None:
    assert reward(judged(verdict=verdict, e2e=None), "e2e", failure=-0.5) == -0.5


def test_nothing_is_left_to_win_at_the_roofline() -> None:
    assert reward(judged(roofline_us=10_000.0), "headroom") == 0.0
