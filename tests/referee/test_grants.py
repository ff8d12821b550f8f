"""What single calls do not prove is asked of passes of the model, by real players."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_sessions import cpu_session

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import load_task
from fastkernels_gym.referee import trial
from fastkernels_gym.referee.calibration import Calibration
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.timings import Precision, Timings
from fastkernels_gym.referee.trial import Stopwatch, Trial
from fastkernels_gym.results import Verdict

TASK = load_task("L1/silu_and_mul@tiny-llama:tiny/decode")
BATCHED = Path(__file__).parents[1] / "redteam/attacks/r10_superbatch.py"


@pytest.fixture(scope="module")
def session(zygote: Zygote) -> Iterator[Session]:
    with cpu_session(TASK, zygote) as found:
        yield found


def judged(session: Session, measure: str) -> Timings:
    candidate = Candidate.parse(BATCHED.read_bytes())
    precision = Precision(0.045, 0.045, 0.05, Calibration.default("cpu"))
    return Trial(session, TASK, candidate, Stopwatch()).run([TASK.operator.class_name], measure, 1.0, precision)


@pytest.mark.parametrize("measure", ["op", "e2e"])
def test_a_saving_on_grant_is_asked_of_passes(session: Session, monkeypatch: pytest.MonkeyPatch, measure: str) -> None:
    monkeypatch.setitem(trial._FIXED_S, "cpu", 1.0)  # as if players differed by so much that batched work is granted
    asked: list[float] = []

    def unseen(whole, claimed_s, tolerance) -> bool:  # a CPU's passes scatter by more than the operator takes in them
        asked.append(claimed_s / whole.baseline)
        return True

    monkeypatch.setattr(trial, "unseen", unseen)
    timings = judged(session, measure)
    assert timings.operator is not None and timings.operator.proven
    assert timings.doubt is not None and timings.doubt.verdict is Verdict.TIMING_INCONSISTENT
    assert "not seen in a decode pass" in timings.doubt.detail
    (share,) = asked
    assert 0 < share < 0.2
    assert (timings.whole is not None) == (measure == "e2e")


def test_what_is_not_granted_is_asked_of_nobody(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "unseen", None)
    timings = judged(session, "op")
    assert timings.operator is not None and not timings.operator.proven and timings.doubt is None
