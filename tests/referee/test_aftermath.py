"""After a candidate's death: a real baseline, alone, against timings that are and are not true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from cpu_sessions import cpu_session

from fastkernels_gym.catalog import load_task
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.referee.aftermath import Aftermath
from fastkernels_gym.referee.calibration import Tolerance
from fastkernels_gym.referee.clock import CallTime
from fastkernels_gym.referee.consistency import DRIFT, Doubt
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import calls_a_pass, record
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.timings import Measured, Timed, end_to_end, remeasured, rung, too_fast
from fastkernels_gym.results import Verdict

TASK = load_task("L1/silu_and_mul@tiny-llama:tiny/decode")
TOLERANCE = Tolerance(0.01, 0.05)
LONG_S = 10.0  # far more than any machine takes for what is asked here


@pytest.fixture(scope="module")
def session(zygote: Zygote) -> Iterator[Session]:
    with cpu_session(TASK, zygote) as found:
        yield found


def measured(session: Session, name: str, *, whole: bool) -> Measured:
    (case,) = TASK.cases
    scene = session.scenes["decode"]
    calls = [scene.whole_model()] if whole else record(session, case, scene, 4)
    program = Program(name, scene, calls, needs_context=whole)
    session.baseline.prepare(program)
    return Measured(program, {}, "decode", "", case.n * (1 if whole else case.count))


def timed(one: Measured, baseline_s: float, candidate_s: float) -> Timed:
    times = [CallTime(np.tile([baseline_s, candidate_s], (401, 1)), blocks=10)]
    if one.program.calls[0].path:
        return Timed(times, TOLERANCE, rung(TASK.operator, [one], times, TOLERANCE.spread), [(one, times[0])])
    return Timed(times, TOLERANCE, end_to_end([one], times, (4, 4), TOLERANCE.spread), [(one, times[0])])


def test_what_was_won_is_held_against_what_there_was(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRIFT, "cpu", 0.5)  # the question that is not asked on a CPU can be answered there
    (case,) = TASK.cases
    assert calls_a_pass(session, case) == case.count == 4
    operator, model = measured(session, "operator", whole=False), measured(session, "model", whole=True)

    def doubt_of(operator: Timed | None, model: Timed | None) -> Doubt | None:
        return Aftermath(session, TASK).doubt(operator, model)

    # The model saves half of a pass, its one faster operator a thousandth: what that operator takes is measured again.
    doubt = doubt_of(timed(operator, LONG_S / 1e6, LONG_S / 2e6), timed(model, LONG_S, LONG_S / 2))
    assert doubt is not None and doubt.verdict is Verdict.TIMING_INCONSISTENT and "saves more" in doubt.detail
    # And where the operator's own timing was too noisy to say how long it takes.
    noisy = timed(operator, LONG_S / 1e6, LONG_S / 2e6)
    noisy.times[0].replicates[1:] *= 1e7
    doubt = doubt_of(noisy, timed(model, LONG_S, LONG_S / 2))
    assert doubt is not None and "saves more" in doubt.detail
    # The same saving where the operator is most of the pass, but no baseline of this machine was ever that slow.
    doubt = doubt_of(timed(operator, LONG_S / 5, LONG_S / 10), timed(model, LONG_S, LONG_S / 2))
    assert doubt is not None and "without the candidate's process" in doubt.detail
    # Baselines as fast as can be were not slowed down; and of what is no faster nothing is asked.
    tiny = 1e-9
    assert doubt_of(timed(operator, tiny, tiny / 2), timed(model, tiny, tiny / 1.1)) is None
    assert doubt_of(timed(operator, LONG_S, LONG_S), timed(model, LONG_S, LONG_S)) is None
    assert doubt_of(None, None) is None


def test_no_more_counts_than_the_operators_own_saving_explains(session: Session) -> None:
    """Half of a pass, it seems, of which four calls of what was replaced are four fifths."""
    operator, model = measured(session, "replaced", whole=False), measured(session, "half", whole=True)
    whole = timed(model, LONG_S, LONG_S / 2)

    def by_itself(ratio: float) -> Timed:
        return timed(operator, LONG_S / 5, ratio * LONG_S / 5)

    aftermath = Aftermath(session, TASK)
    assert aftermath.doubt(by_itself(0.99), whole) is None, "there was that much to save"
    assert aftermath.borne_out(by_itself(0.5), whole).estimate == whole.estimate
    hardly = aftermath.borne_out(by_itself(0.99), whole)
    assert hardly.estimate.speedup == pytest.approx(1 / (1 - 1.5 * 0.8 * 0.01))
    for ratio in (1.0, 1.1):
        none = aftermath.borne_out(by_itself(ratio), whole)
        assert none.estimate.speedup == 1.0 and not none.proven


def test_what_scatters_proves_no_more_than_the_operator_does(session: Session) -> None:
    operator, model = measured(session, "tiny", whole=False), measured(session, "noisy", whole=True)
    whole = timed(model, LONG_S, LONG_S / 2)
    noise = np.random.default_rng(0).normal(0, 1, (401, 2))
    noise[0] = 0
    scattered = replace(whole.times[0], replicates=whole.times[0].replicates * np.exp(0.21 * noise))
    whole = remeasured(whole, [scattered])
    assert whole.proven
    operator_time = timed(operator, LONG_S / 1e5, LONG_S / 2e5)
    aftermath = Aftermath(session, TASK)
    assert aftermath.doubt(operator_time, whole) is None, "too noisy to say"
    found = aftermath.borne_out(operator_time, whole)
    assert not found.proven and found.estimate.speedup == pytest.approx(1.0, abs=1e-4)
    # And what can be true stays as it was.
    operator_time = timed(operator, LONG_S, LONG_S / 2)
    assert Aftermath(session, TASK).borne_out(operator_time, whole).estimate == whole.estimate


def test_what_the_candidate_defines_beside_it_may_save_all_that_it_took(session: Session) -> None:
    operator, model = measured(session, "unchanged", whole=False), measured(session, "helped", whole=True)
    tiny = 1e-6  # less than any machine takes for four blocks
    whole = timed(model, tiny, tiny / 2)
    block = find_operator("L2/llama_mlp")
    no_faster = timed(operator, tiny, tiny)
    assert not Aftermath(session, TASK).borne_out(no_faster, whole).proven
    assert Aftermath(session, TASK, [block]).borne_out(no_faster, whole).estimate == whole.estimate


def test_what_is_beyond_the_roofline_says_where(session: Session) -> None:
    one = replace(measured(session, "quick", whole=False), impossible_s=1e-5)
    doubt = too_fast(TASK.operator.id, [one], timed(one, 1e-4, 1e-6))
    assert doubt is not None and doubt.verdict is Verdict.BEYOND_ROOFLINE and "L1/silu_and_mul, decode" in doubt.detail
    assert too_fast(TASK.operator.id, [one], timed(one, 1e-4, 2e-5)) is None
