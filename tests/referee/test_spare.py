"""The players of a session: the next candidate's warms up while this one's is judged, the baseline's is renewed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cpu_sessions import cpu_session

from fastkernels_gym.catalog import load_task
from fastkernels_gym.referee import session as sessions
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.session import Session


@pytest.fixture
def session(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setitem(sessions.SPARES, "cpu", True)
    with cpu_session(load_task("L1/rms_norm@tiny-llama"), zygote) as found:
        yield found


def test_every_candidate_has_a_player_of_its_own_that_builds_the_model(session: Session) -> None:
    players: list[Contender] = []
    for _ in range(3):
        players.append(session.new_candidate())
        players[-1].load(None, None, ())
        session.warm_spare()
        session.await_spare()
    assert len({id(one.player) for one in players}) == 3
    for one in players:
        one.close()


@pytest.mark.parametrize("waits", [False, True])
def test_a_spare_that_dies_is_nobodys_fault(session: Session, waits: bool) -> None:
    session.warm_spare()
    assert session._spare is not None
    session._spare.player.kill()
    if waits:
        session.await_spare()
    found = session.new_candidate()
    found.load(None, None, ())
    found.close()


def test_the_baseline_is_renewed_when_asked_for_and_when_it_has_served_for_long(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_CANDIDATES_A_BASELINE", 2)
    served: list[Contender] = []
    for fresh in (False, False, False, False, True, False):
        session.begin_trial(fresh=fresh)
        served.append(session.baseline)
    first, second, third = dict.fromkeys(served)
    assert served == [first, first, second, second, third, third]
