"""What a program is made of: a burst of the KV store writes no row twice, and leaves nothing behind."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from cpu_sessions import cpu_session

from fastkernels_gym.catalog import load_task
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import affordable_length, record, recorded
from fastkernels_gym.referee.session import Session

TASK = load_task("L1/store_kvcache@tiny-llama")


@pytest.fixture
def session(zygote: Zygote) -> Iterator[Session]:
    with cpu_session(TASK, zygote) as found:
        yield found


def test_a_burst_of_the_kv_store_writes_rows_that_are_nobodys(session: Session) -> None:
    (case,) = (case for case in TASK.cases_of(TASK.operator.id) if case.phase == "decode")
    scene, player = session.scenes["decode"], session.baseline
    calls = record(session, case, scene, 16)
    assert len(calls) == 16 > session.num_layers
    used = {
        (row, slot)
        for row, length in enumerate(scene.batch.metadata.seq_lens.tolist())
        for slot in _slots(scene.batch.metadata.block_table[row], length)
    }
    program = Program("store", scene, calls, needs_context=False)
    written: set[tuple[int, int]] = set()
    for call in calls:
        rows = {(program.kv_layer(call) or 0, int(s) + call.shift) for s in scene.batch.metadata.slot_mapping}
        assert not rows & written
        written |= rows
        if call.shift:
            assert not {slot for _, slot in rows} & {slot for _, slot in used}
    truths = [expect(program, call) for call in calls]
    own = scene.kv.mirror.clone()
    player.prepare(program)
    for _ in range(2):
        program.deal()
        player.set_pages(program)
        player.run(program, len(calls))
    for index, truth in enumerate(truths):
        # Contexts were dealt to other sequences, and the rows with them: a call's rows are the same.
        for theirs, ours in zip(player.outputs(program, index), truth.baseline, strict=True):
            assert theirs is not None and ours is not None and torch.equal(theirs, ours)
    assert player.kv_intact(scene) and torch.equal(scene.kv.mirror, own)
    other = Program("other", scene, record(session, case, scene, 1), needs_context=False)
    player.prepare(other)
    slab = player.share(scene.kv)
    for call in calls[session.num_layers :]:
        for ref in scene.kv_refs[program.kv_layer(call) or 0]:
            assert not slab.tensor(ref).flatten(0, 1)[other.slots + call.shift].any(), "nobody's rows are clean again"


def _slots(pages: torch.Tensor, length: int) -> list[int]:
    return [int(pages[at // 16]) * 16 + at % 16 for at in range(length)]


def test_what_was_recorded_serves_again_while_there_is_room(session: Session) -> None:
    rotary = load_task("L1/rotary_emb@tiny-llama")
    (case, *_), (other, *_) = TASK.cases, rotary.cases
    scene = session.scenes[case.phase]
    session.rng = random.Random(0)  # of which nothing is forgotten here
    first = recorded(session, case, scene, 4)
    second = recorded(session, other, session.scenes[other.phase], 4)
    assert recorded(session, case, scene, 4) is first
    assert recorded(session, other, session.scenes[other.phase], 4) is second
    session.pool_bytes = 1
    assert len(recorded(session, case, scene, 1)) == 1
    assert list(session.recordings) == [(case, scene.name, 1)], "the oldest gave way"
    session.rng = random.Random(0)
    again = {id(recorded(session, case, scene, 1)) for _ in range(1000)}
    assert 5 < len(again) < 60, "drawn anew now and then"


def test_bursts_of_a_slow_candidate_are_as_short_as_statistics_allow(session: Session) -> None:
    scene = session.scenes["prefill"]
    assert affordable_length(scene, 16, 0.1) == 16
    assert affordable_length(scene, 16, 2.0) == 8
    assert affordable_length(scene, 16, 1e6) == 4
    assert affordable_length(scene, 3, 1e6) == 3
    rows = session.scenes["decode"]
    assert affordable_length(rows, 512, 1e6) == max(4, rows.fewest_calls)
