"""What two real players find in the windows of a pair."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import pytest
import torch

from fastkernels_gym.catalog import load_task
from fastkernels_gym.player.memory import view
from fastkernels_gym.player.protocol import TensorRef
from fastkernels_gym.referee import contender
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.pairing import Pairing
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.program import Program, expect
from fastkernels_gym.referee.recording import record
from fastkernels_gym.referee.session import Session
from fastkernels_gym.request import Deadlines

CALLS = 16


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    found = Zygote("cpu")
    yield found
    found.close()


@pytest.fixture(params=[False, True], ids=["asleep", "awake"], autouse=True)
def awake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By messages, as where cores are few, and by the doorbell."""
    monkeypatch.setattr(contender, "WAITS_AWAKE", request.param)


@pytest.fixture(params=["L1/silu_and_mul@tiny-llama", "L1/embedding@tiny-llama", "L2/mixtral_moe@tiny-mixtral"])
def pair(request: pytest.FixtureRequest, zygote: Zygote) -> Iterator[tuple[Program, Session, Contender, Pairing]]:
    """An operator's decode step in two players of the baseline."""
    with torch.no_grad():
        task = load_task(request.param)
        session = Session(task, torch.device("cpu"), zygote, 1, Deadlines())
        other = session.new_candidate()
        try:
            other.load(None, None, ())
            case = next(case for case in task.cases if case.phase == "decode")
            scene = session.scenes["decode"]
            program = Program("pair", scene, record(session, case, scene, CALLS), needs_context=False)
            for player in (session.baseline, other):
                player.prepare(program)
            expected = {index: expect(program, program.calls[index]) for index in range(CALLS)}
            yield program, session, other, Pairing(session, other, program, expected)
        finally:
            other.close()
            session.close()


def test_every_window_of_a_turn_finds_inputs_of_its_own(
    pair: tuple[Program, Session, Contender, Pairing],
) -> None:
    program, session, other, pairing = pair
    pairing.renew()
    seen: list[torch.Tensor] = []
    for column, player in enumerate((session.baseline, other)):
        slab = player.share(program.region)
        for window in (pairing.settle, partial(pairing.window, n=1), partial(pairing.window, n=CALLS)):
            window(column)
            seen.append(slab.bytes.clone())
    pairing.judge()
    settled, single, burst, *theirs = seen
    assert all(map(torch.equal, (settled, single, burst), theirs))
    for one, two in combinations([settled, single, burst], 2):
        assert torch.equal(one, two) is not program.renewable
    if program.renewable:  # before the burst nothing of any of its calls is there
        for call in program.message()["calls"]:
            ref = TensorRef.from_json(call["args"][0]["t"])
            for before in (settled, single):
                assert not torch.equal(view(before, ref), view(burst, ref))
