"""What two real players find in the windows of a pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from cpu_sessions import cpu_session

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import load_task
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.memory import view
from fastkernels_gym.player.protocol import TensorRef
from fastkernels_gym.referee import contender, taking
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.pairing import Pairing
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import record
from fastkernels_gym.referee.session import Session
from fastkernels_gym.request import Deadlines
from fastkernels_gym.results import Verdict

HONEST = Path(__file__).parents[1] / "redteam/honest"
CALLS = 16  # at most: blocks that write keys and values have fewer


@pytest.fixture(params=[False, True], ids=["asleep", "awake"], autouse=True)
def awake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By messages, as where cores are few, and by the doorbell."""
    monkeypatch.setattr(contender, "WAITS_AWAKE", request.param)


OPERATORS = [
    *("L1/silu_and_mul@tiny-llama", "L1/embedding@tiny-llama"),
    *("L1/topk_softmax@tiny-mixtral", "L1/moe_align_block_size@tiny-mixtral"),
    *("L2/mixtral_moe@tiny-mixtral", "L3/mixtral_decoder@tiny-mixtral"),
]


@pytest.fixture(params=OPERATORS)
def pair(request: pytest.FixtureRequest, zygote: Zygote) -> Iterator[tuple[Program, Session, Contender, Pairing]]:
    """An operator's decode step in two players of the baseline."""
    with torch.no_grad():
        task = load_task(request.param)
        session = Session(task, torch.device("cpu"), zygote, 1, Deadlines())
        other = session.new_candidate()
        try:
            other.load(None, None, ())
            case = [case for case in task.cases if case.phase == "decode"][-1]  # of a decoder, not its first layer
            scene = session.scenes["decode"]
            block = task.level > 1
            program = Program("pair", scene, record(session, case, scene, CALLS), needs_context=block)
            for player in (session.baseline, other):
                player.prepare(program)
            expected = {index: expect(program, program.calls[index]) for index in range(len(program.calls))}
            yield program, session, other, Pairing(session, other, program, expected)
        finally:
            other.close()
            session.close()


@pytest.mark.parametrize("pair", OPERATORS[:-1], indirect=True)  # a decoder may work in the memory of its arguments
def test_every_window_of_a_turn_finds_inputs_of_its_own(
    pair: tuple[Program, Session, Contender, Pairing],
) -> None:
    program, session, other, pairing = pair
    pairing.renew()
    seen: list[torch.Tensor] = []
    for column, player in enumerate((session.baseline, other)):
        slab = player.share(program.region)
        for window in (pairing.settle, partial(pairing.window, n=1), partial(pairing.window, n=len(program.calls))):
            window(column)
            seen.append(slab.bytes.clone())
    pairing.judge()
    settled, single, burst, *theirs = seen
    assert all(map(torch.equal, (settled, single, burst), theirs))
    for one, two in combinations([settled, single, burst], 2):
        assert not torch.equal(one, two)
    for call in program.message()["calls"]:  # before the burst nothing of any of its calls is there
        refs = [TensorRef.from_json(argument["t"]) for argument in call["args"] if "t" in argument]
        own = [ref for ref in refs if ref.slab == program.name]
        ref = next((ref for ref in own if "float" in ref.dtype), own[0])
        for before in (settled, single):
            assert not torch.equal(view(before, ref), view(burst, ref))


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of every size are large."""
    monkeypatch.setattr(taking, "SAMPLED_BYTES", 0)
    monkeypatch.setattr(taking, "_PIECE", 32)


@pytest.mark.usefixtures("sampled")
def test_of_large_outputs_both_players_leave_the_same_pieces(
    pair: tuple[Program, Session, Contender, Pairing],
) -> None:
    program, session, other, pairing = pair
    shown: list[list[torch.Tensor]] = []
    for _ in range(2):
        pairing.renew()
        for column in range(2):
            pairing.window(column, len(program.calls))
        pairing.judge()
        ours, theirs = (one.every_output(program)[0] for one in (session.baseline, other))
        for call, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(mine, its)
            if program.sampled:
                (sample,) = program.samples
                assert sample is not None and mine.shape == (len(sample.chosen), 32)
                whole = session.baseline.share(program.region).tensor(program.out[call][0])  # type: ignore[arg-type]
                assert torch.equal(mine, whole.view(-1, 32)[sample.chosen])
        shown.append([one.clone() for one in ours])
    assert not torch.equal(shown[0][0], shown[1][0])
    free_order = not program.sampled and not program.routed  # of such calls some are looked at
    for call in range(len(program.calls)) if free_order else [len(program.calls) - 1]:
        other.every_output(program)[0][call].zero_()  # what was not computed is missing in them
    pairing.window(0, len(program.calls))
    with pytest.raises(CandidateFault, match="a timed call"):
        pairing.judge()


def test_experts_that_round_otherwise_are_right_in_every_window(zygote: Zygote) -> None:
    """In bfloat16 the baseline's router has near ties, and rounds some of them to exact ones."""
    experts = (HONEST / "experts_more_accurate.py").read_text(encoding="utf-8")
    task = load_task("L2/mixtral_moe@tiny-mixtral")
    task = replace(task, model=replace(task.model, dtype=torch.bfloat16))
    with cpu_session(task, zygote) as session:
        honest = session.new_candidate()
        try:
            honest.load(Candidate.parse(experts), find_operator("L2/mixtral_moe"), ["MixtralMoE"])
            case = next(case for case in task.cases if case.phase == "prefill")
            scene = session.scenes["prefill"]
            program = Program("rounds", scene, record(session, case, scene, CALLS), needs_context=True)
            for player in (session.baseline, honest):
                player.prepare(program)
            pairing = Pairing(session, honest, program, {0: expect(program, program.calls[0])})
            for _ in range(20):
                pairing.renew()
                for column in range(2):
                    for n in program.lengths:
                        pairing.window(column, n)
                pairing.judge()
        finally:
            honest.close()


EARLY = """
from time import sleep

from fastkernels_gym.player.doorbell import Doorbell


def early(self, window, work, hung_up):
    self._bytes[1] = window
    while self._bytes[0] != window:
        pass
    self._bytes[2] = window
    sleep(0.02)
    work()


Doorbell.answer = early
"""
REFERENCE = (HONEST / "reference.py").read_text(encoding="utf-8")
LEFT_OUT = "        out[-1, -out.shape[-1] // 4 :] = 0\n        return out\n"
UNFINISHED = REFERENCE.replace("        return ", "        out = ") + LEFT_OUT


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("pair", ["L1/silu_and_mul@tiny-llama"], indirect=True)
@pytest.mark.parametrize("awake", [True], indirect=True)
@pytest.mark.parametrize("source", [EARLY + REFERENCE, UNFINISHED], ids=["early", "unfinished"])
def test_what_is_not_there_when_the_clock_stops_is_wrong(
    pair: tuple[Program, Session, Contender, Pairing], source: str
) -> None:
    program, session, *_ = pair
    expected = {index: expect(program, call) for index, call in enumerate(program.calls)}
    hostile = session.new_candidate()
    try:
        hostile.load(Candidate.parse(source), find_operator("L1/silu_and_mul"), ["SiluAndMul"])
        hostile.prepare(program)
        pairing = Pairing(session, hostile, program, expected)
        with pytest.raises(CandidateFault) as caught:
            for _ in range(20):  # a quarter of a row in four: now and then no piece of it is in the sample
                pairing.renew()
                for column in range(2):
                    pairing.window(column, CALLS)
                pairing.judge()
        assert caught.value.verdict is Verdict.WRONG_VALUE
    finally:
        hostile.close()
