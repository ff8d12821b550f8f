"""Baseline and candidate at one program: what their windows find, and what becomes of what they leave.

A turn has up to two windows: a burst of one call, then the long burst. The first call has inputs of its own in each,
lest it be remembered from one to the next, and those of the other calls are there in the last only, lest they be worked
off beforehand. Both players of a pair find the same inputs in the bursts, and what both bursts give is judged, by the
baseline's and now and then by the oracle: what need not be right, or not as accurate, need not be done. Where near ties
decide what is right, the referee runs its own copy on calls that it draws afterwards, and on all that are far off, to
see which rows hang on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.device_state import gpu
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.judging import (
    Expected,
    Outputs,
    compare,
    compare_every,
    copied,
    far_off,
    judge,
    noise_floor,
)
from fastkernels_gym.referee.links import Pass
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.scene import Call
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.settling import settle

_LOOKED_AT = 3  # calls of a burst whose rows may leave, or lie in any order
_JUDGED_IN_FULL = 1 / 4  # of an operator's long bursts; which ones nobody can tell beforehand


class Pairing:
    """What a duel is made of; players by their column, the baseline's first.

    Args:
        session: the model's; its baseline has the program.
        candidate: has it too.
        program: what is timed.
        expected: of the calls that are judged in full.
    """

    def __init__(
        self, session: Session, candidate: Contender, program: Program, expected: Mapping[int, Expected]
    ) -> None:
        self._program, self._players = program, (session.baseline, candidate)
        self._rng, self._num_layers = session.rng, session.num_layers
        self._noise = noise_floor(expected.values())
        heard = zip(*(one.router_noise for one in expected.values()), strict=True)
        self._router_noise = tuple(max(each) for each in heard)
        self._canonical = next(iter(expected.values())).canonical
        self._gpu = gpu(program.region.device)
        program.on_device = all(player.captured(program) for player in self._players)
        self._single_inputs: list[torch.Tensor] = []
        self._singles: dict[int, Outputs] = {}
        self._long = False

    def renew(self) -> None:
        """What a pair's windows find: other inputs, and keys and values at other places."""
        program = self._program
        self._singles.clear()
        self._long = False
        program.refresh()
        if len(program.calls) > 1:
            self._single_inputs = program.draw_first()
        if program.touches_pages:
            program.deal()
            for player in self._players:
                player.set_pages(program)

    def settle(self, player: int) -> None:
        """Makes a player ready for its turn."""
        settle(self._program, self._players[player])

    def window(self, player: int, n: int) -> float:
        """Seconds of a window of the first n calls."""
        program, who = self._program, self._players[player]
        if n == len(program.calls):
            self._long = True
            return who.run(program, n, sampled=program.sampled)
        program.put_first(self._single_inputs)
        seconds = who.run(program, n, decoy=True, sampled=program.sampled)
        self._singles[player] = copied(who.outputs(program, 0))
        return seconds

    def judge(self) -> None:
        """Holds what the last pair's windows gave against the baseline's player, on the same inputs, or the oracle.

        Raises:
            CandidateFault: the verdict.
        """
        program, (theirs, ours) = self._program, self._players
        if self._singles:
            self._compare(0, program.region.decoy, self._singles[1], self._singles[0])
        count = len(program.calls)
        if self._long and program.sampled:
            every = ours.every_output(program), theirs.every_output(program)
            compare_every("a timed call", *every, self._noise, self._rng.randrange(count))
            if not isinstance(program, Pass) and self._rng.random() < _JUDGED_IN_FULL:
                self._judge_in_full()
        elif self._long:
            chosen = set(self._rng.sample(range(count), min(_LOOKED_AT, count)))
            if program.routed:
                chosen |= far_off(ours.every_output(program), theirs.every_output(program), self._noise)
            for index in sorted(chosen):
                outputs = ours.outputs(program, index), theirs.outputs(program, index)
                self._compare(index, program.region.mirror, *outputs)
        if isinstance(program, Pass):
            for seen in ours.seen(program):
                program.compare_link(seen, f"a timed pass, {program.scene.name}")
                ours.check_pages(program.scene, program.layer_by(seen.link))
        elif program.touches_pages:
            ours.check_pages(program.scene, self._rng.randrange(self._num_layers))

    def quiet(self, player: int) -> AbstractContextManager[None]:
        """The other player stopped: kernels that were launched run on, and one that waits shares a core."""
        return self._players[1 - player].player.frozen()

    def slowed(self) -> bool:
        """Whether the device was slowed down since this was last asked."""
        return self._gpu is not None and bool(self._gpu.slowed())

    def _compare(self, index: int, private: torch.Tensor, ours: Outputs, theirs: Outputs) -> None:
        """Holds one call against the baseline's; where rows may leave, what is too far off is judged in full.

        Args:
            index: the call's.
            private: mirror or decoy, which has its inputs.
            ours: its outputs.
            theirs: the baseline's.
        """
        program = self._program
        if not program.routed:
            compare("a timed call", self._in_order(ours), self._in_order(theirs), self._noise)
            return
        call = program.found_in(private, index)
        try:
            compare("a timed call", ours, theirs, self._noise, program.unsettled(call, self._router_noise))
        except CandidateFault:
            judge("a timed call", ours, self._truth(call))

    def _truth(self, call: Call) -> Expected:
        """What a call gives, the referee's own pages left as they are."""
        with self._program.rows_as_recorded(), self._program.rows_kept(call):
            return expect(self._program, call)

    def _judge_in_full(self) -> None:
        """Holds calls of the long burst, as many as make a statistic, against the oracle, as before the timing.

        The baseline's noise alone is no measure of accuracy: it hides errors of several times as much.
        """
        program, count = self._program, len(self._program.calls)
        expected: dict[int, Expected] = {}
        for index in self._rng.sample(range(count), min(count, program.scene.fewest_calls)):
            truth = self._truth(program.found_in(program.region.mirror, index))
            if truth.fit:
                expected[index] = truth.of_samples(program.samples)
        if expected:
            program.judge(partial(self._players[1].outputs, program), expected, "a timed call")

    def _in_order(self, outputs: Outputs) -> Outputs:
        return outputs if self._canonical is None else self._canonical(*outputs)
