"""Whatever a player answers, the referee lives: it is the candidate's fault, or as good as an honest answer."""

from __future__ import annotations

import contextlib
import copy
import json
import mmap
import os
import random
import socket
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastkernels_gym.catalog import load_task
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.doorbell import Doorbell
from fastkernels_gym.player.protocol import Channel
from fastkernels_gym.player.sandbox import Limits
from fastkernels_gym.referee import contender
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.players import Player
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.scene import Scene
from fastkernels_gym.referee.subject import Subject
from fastkernels_gym.request import Deadlines
from fastkernels_gym.results import Verdict

quick = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["weights", "float32", "cpu", "cuda", "shape", "ab" * 64, "1", "4", 1 << 47, 1 << 63, -1])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["slab", "offset", "shape", "stride", "dtype", "device"]), inner, max_size=6)
    ),
    max_leaves=12,
)


class Hostile:
    """A player whose answers are the test's, over a real socket; its process sleeps."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sleep", "600"])
        ours, self._theirs = socket.socketpair()
        bell, pidfd = Doorbell.create(), os.pidfd_open(self._process.pid)
        self._bell = mmap.mmap(bell.fd, 4096)
        self.player = Player(Channel(ours), bell, pidfd, Limits(), trusted=False)

    def will_answer(self, *frames: bytes) -> None:
        """Puts its next answers on the wire, and takes what it was asked off it."""
        self._theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._theirs.recv(1 << 20):
                pass
        self._theirs.setblocking(True)
        self._theirs.sendall(b"".join(frames))

    def ring(self, rung: bytes) -> None:
        """Writes the doorbell's bytes: go, armed, done."""
        self._bell[: len(rung)] = rung

    def hang_up(self) -> None:
        """Says nothing more."""
        self._theirs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.player.close()
        self.end()

    def end(self) -> None:
        """Closes what the referee does not."""
        self._theirs.close()
        self._bell.close()
        self._process.kill()
        self._process.wait()


def frame(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return struct.pack("<I", len(body)) + body


@settings(quick, max_examples=60)
@given(st.binary(max_size=300) | st.dictionaries(st.sampled_from(["fault", "detail", "x"]), values).map(frame))
def test_any_bytes_are_an_answer_or_the_candidates_fault(data: bytes) -> None:
    hostile = Hostile()
    hostile.will_answer(data)
    hostile.hang_up()
    try:
        assert isinstance(hostile.player.ask({"op": "load"}, timeout=5), dict)
    except CandidateFault as fault:
        assert len(fault.detail) < 10_000
    finally:
        hostile.close()


def test_a_promised_frame_takes_no_memory_before_it_comes() -> None:
    hostile = Hostile()
    hostile.will_answer(struct.pack("<I", (1 << 21) - 1) + b"{")
    hostile.hang_up()
    tracemalloc.start()
    try:
        with pytest.raises(CandidateFault):
            hostile.player.ask({"op": "load"}, timeout=5)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
        hostile.close()


class Table:
    """A contender whose player is hostile, and a program of two calls that it has been handed."""

    def __init__(self) -> None:
        task = load_task("L1/rms_norm@tiny-llama")
        rng, device = random.Random(0), torch.device("cpu")
        torch.set_grad_enabled(False)
        subject = Subject(task.model, device, 1, torch.Generator().manual_seed(0))
        scene = Scene(subject, "decode", [1, 1], [4, 4], rng)
        case = next(case for case in task.cases_of("L1/rms_norm") if len(case.args) == 2)
        calls = scene.record({path: 1 for path in case.paths if "layers.0." in path})[:1] * 2
        self.program = Program("program", scene, calls, needs_context=False)
        self.hostile = Hostile()
        self.contender = Contender(
            self.hostile.player, subject, subject.weights.new_slab(read_only=True), Deadlines(5, 5)
        )
        self.honest = {
            "outputs": [
                [
                    {"shape": list(t.shape), "stride": list(t.stride()), "dtype": "float32", "device": "cpu"}
                    for t in self.program.layout
                    if t is not None
                ]
                for _ in calls
            ],
            "places": {"1": [[ref.to_json() for ref in slots if ref] for slots in self.program.out]},
        }
        self.parameters = [[name, list(ref.shape), ref.dtype] for name, ref in subject.refs.items()]
        self.hostile.will_answer(frame({}), frame(self.honest))
        self.contender.prepare(self.program)

    def close(self) -> None:
        self.contender.close()
        self.hostile.end()


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contender, "WAITS_AWAKE", True)  # as where cores are many
        yield made
    made.close()


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one place of it changed, however deep."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw(st.integers(0, 3)) == 0:
        return draw(values)
    key = draw(st.sampled_from(inner))
    result = copy.copy(value)
    if draw(st.integers(0, 9)) == 0:
        del result[key]
    else:
        result[key] = draw(changed(value[key]))
    return result


@quick
@given(st.data())
def test_no_description_of_outputs_breaks_the_referee(table: Table, data: st.DataObject) -> None:
    answer = data.draw(changed(table.honest))
    table.hostile.will_answer(frame(answer if isinstance(answer, dict) else {"outputs": answer}))
    with contextlib.suppress(CandidateFault):
        table.contender.prepare(table.program)


@quick
@given(st.data(), st.binary(min_size=3, max_size=3))
def test_no_end_of_a_window_breaks_the_referee(table: Table, data: st.DataObject, rung: bytes) -> None:
    table.hostile.ring(rung)
    table.hostile.will_answer(frame({"done": True, "places": data.draw(changed(table.honest["places"]))}))
    with contextlib.suppress(CandidateFault):
        table.contender.run(table.program, 1)


@quick
@given(st.data())
def test_no_places_of_what_was_not_captured_break_the_referee(table: Table, data: st.DataObject) -> None:
    places = data.draw(changed(table.honest["places"]["1"]))
    table.hostile.will_answer(frame({"done": True, "places": places}))
    with contextlib.suppress(CandidateFault):
        table.contender.run(table.program, 3)  # no graph's length: it says where its outputs are when it is done


@pytest.mark.parametrize("rings", [False, True])
def test_a_player_that_is_armed_and_never_done_runs_out_of_time(rings: bool) -> None:
    hostile = Hostile()
    try:
        hostile.ring(b"\0\1\0")
        with pytest.raises(CandidateFault) as caught, hostile.player.armed({"op": "run"}, timeout=0.3) as ring:
            if rings:
                ring()()
        assert caught.value.verdict is Verdict.TIMEOUT
    finally:
        hostile.close()


def test_what_a_player_pleads_instead_of_ringing_is_its_fault() -> None:
    hostile = Hostile()
    try:
        hostile.ring(b"\0\1\0")
        with pytest.raises(CandidateFault) as caught, hostile.player.armed({"op": "run"}, timeout=5) as ring:
            hostile.will_answer(frame({"fault": "device_fault", "detail": "illegal address"}))
            ring()()
        assert caught.value.verdict is Verdict.DEVICE_FAULT
    finally:
        hostile.close()


@pytest.mark.parametrize("answers", [False, True])
def test_a_player_that_does_not_hand_the_device_back_is_not_waited_for(answers: bool) -> None:
    hostile = Hostile()
    try:
        hostile.ring(b"\0\1\0")
        ends = contextlib.nullcontext() if answers else pytest.raises(CandidateFault, match="'run'")
        with ends, hostile.player.enqueued({"op": "run"}, timeout=0.3) as handover:
            assert not handover.bell.handed_back(handover.window)
            if answers:
                hostile.will_answer(frame({"done": True}))
            while not handover.bell.handed_back(handover.window):
                handover.watch()
    finally:
        hostile.close()


def test_what_a_player_pleads_instead_of_enqueueing_is_its_fault() -> None:
    hostile = Hostile()
    try:
        hostile.will_answer(frame({"fault": "runtime_error", "detail": "no graph"}))
        with pytest.raises(CandidateFault) as caught, hostile.player.enqueued({"op": "run"}, timeout=5):
            pytest.fail("nothing was enqueued")
        assert caught.value.verdict is Verdict.RUNTIME_ERROR
    finally:
        hostile.close()


@pytest.mark.parametrize("slab", ["ab" * 64, "ab", "zz" * 64, "weights", "", "no such slab"])
def test_no_memory_that_it_names_breaks_the_referee(table: Table, slab: str) -> None:
    answer = copy.deepcopy(table.honest)
    answer["places"]["1"][0][0] |= {"slab": slab, "offset": 1 << 47}
    table.hostile.will_answer(frame(answer))
    with pytest.raises(CandidateFault) as caught:
        table.contender.prepare(table.program)
    assert caught.value.verdict is Verdict.PROTOCOL_TAMPER


@quick
@given(st.data())
def test_no_list_of_parameters_breaks_the_referee(table: Table, data: st.DataObject) -> None:
    said = data.draw(changed(table.parameters))
    table.hostile.will_answer(frame({"parameters": said}), frame({}))
    with contextlib.suppress(CandidateFault):
        table.contender.load(None, None, ())
