"""One candidate against the baseline: is it right, then how fast is it, rung by rung and end to end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import OperatorInfo, Task
from fastkernels_gym.catalog.operators import siblings
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee.aftermath import Aftermath
from fastkernels_gym.referee.clock import CallTime, Duel, measure, undisturbed
from fastkernels_gym.referee.consistency import Doubt, rests_on_grant, unseen
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.examining import Examination
from fastkernels_gym.referee.links import Pass
from fastkernels_gym.referee.pairing import Pairing
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import calls_a_pass
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.timings import (
    Measured,
    Precision,
    Timed,
    Timings,
    end_to_end,
    quickened,
    rung,
    tolerance_of,
    too_fast,
)
from fastkernels_gym.results import Verdict

# By how many seconds two honest players' fixed costs differ where the device times them (docs/decisions.md).
_FIXED_S = {"cpu": 0.0, "cuda": 1.5e-6}
_PASSES_S = 1.0  # of timing, for passes that are to show what an operator saves
_SHARES = {"op": 0.3, "ladder": 0.15, "e2e": 0.55}  # of the timing budget; all rungs of the ladder share one


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage."""

    build: float = 0.0
    correctness: float = 0.0
    timing: float = 0.0

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.monotonic() - begin)


@dataclass(slots=True)
class Trial:
    """The judging of one candidate by one fresh player.

    Args:
        session: the model's.
        task: what the candidate replaces.
        candidate: parsed.
        watch: where the seconds go.
    """

    session: Session
    task: Task
    candidate: Candidate
    watch: Stopwatch
    _found_intact: bool = False
    _contender: Contender | None = None
    _examination: Examination | None = None
    _programs: list[Program] = field(default_factory=list)

    @property
    def contender(self) -> Contender:
        assert self._contender is not None
        return self._contender

    @property
    def examination(self) -> Examination:
        assert self._examination is not None
        return self._examination

    def run(
        self, replaces: Sequence[str], measure: str, budget_s: float, precision: Precision, *, calibrating: bool = False
    ) -> Timings:
        """Judges, then measures.

        Args:
            replaces: classes of the candidate's that take an operator's place.
            measure: how far up the ladder.
            budget_s: seconds of timing at the most.
            precision: how closely.
            calibrating: as of a request: what the full model saves is stated as it was measured.

        Raises:
            CandidateFault: the verdict, where it is not `ok`.
            PlayerLost: if the baseline's player fails.
        """
        try:
            with self.watch.on("build"):
                self._contender = self.session.new_candidate()
                try:
                    self._contender.load(self.candidate, self.task.operator, replaces)
                finally:  # not before: two that start at once take longer than one after the other
                    self.session.warm_spare()
            self._examination = Examination(self.session, self.task, self._contender)
            timings = self._measure_rungs(measure, budget_s, precision)
            self._check_arena()
            with self.watch.on("timing"):
                replaced = [found for found in siblings(self.task.operator) if found.class_name in replaces]
                aftermath = Aftermath(self.session, self.task, replaced)
                timings.doubt = timings.doubt or aftermath.doubt(timings.operator, timings.whole)
                if timings.operator and timings.whole and not calibrating:
                    explained = aftermath.borne_out(timings.operator, timings.whole)
                    less = explained.estimate.speedup < timings.whole.estimate.speedup
                    timings.unexplained = less and timings.whole.proven
                    timings.whole = explained
            timings.forget_programs()
            return timings
        finally:
            self._close()

    def _close(self) -> None:
        if self._contender is not None:
            self._contender.close()
        # A candidate that failed may have written them all the same; the next one must not feel it.
        if not self._found_intact and not self.session.weights.intact():
            self.session.weights.reveal()
        for program in self._programs:
            self.session.baseline.drop(program)
        self._programs.clear()

    def _check_arena(self) -> None:
        self.contender.player.kill()
        for scene in self.session.scenes.values():
            self.contender.check_pages(scene)
        if not self.session.weights.intact():
            raise CandidateFault(Verdict.PROTOCOL_TAMPER, "weights were overwritten")
        self._found_intact = True

    def _measure_rungs(self, measure: str, budget_s: float, precision: Precision) -> Timings:
        """Judges and times rung after rung, the full model last: memory holds the calls of one of them."""
        rungs = [] if self.task.level == 4 else [self.task.operator]
        rungs += list(self.task.ladder) if measure != "op" else []
        shares = [_SHARES["op"] if index == 0 else _SHARES["ladder"] / (len(rungs) - 1) for index in range(len(rungs))]
        shares += [_SHARES["e2e"]] if measure == "e2e" or self.task.level == 4 else []
        timings, begin = Timings(precision), self.watch.timing
        for index, operator in enumerate(rungs):
            with self.watch.on("correctness"):
                measured = self.examination.operator(operator, thorough=index == 0)
            with self.watch.on("timing"):
                left = max(0.0, budget_s - (self.watch.timing - begin))
                seconds = left * shares[index] / sum(shares[index:])
                timings.add(*self._time_operator(operator, measured, seconds, precision, asked=index == 0))
            del measured  # gigabytes, which the next rung needs
        if len(shares) > len(rungs):
            with self.watch.on("correctness"):
                whole = self.examination.model(self.task.workload.phases)
            with self.watch.on("timing"):
                timings.whole = self._time_model(whole, max(0.0, budget_s - (self.watch.timing - begin)), precision)
            timings.doubt = timings.doubt or too_fast("the full model", whole, timings.whole)
        if timings.operator is not None and timings.operator.claimed_s and timings.doubt is None:
            timings.doubt = self._unseen(timings.operator.claimed_s, timings.whole, precision)
        return timings

    def _unseen(self, claimed_s: Mapping[str, float], whole: Timed | None, precision: Precision) -> Doubt | None:
        """Why an operator's saving is not believed that single calls do not prove: passes of the model do not show it.

        Bursts can be worked off at once, a pass cannot: what a call is given the one before it has computed.
        """
        if whole is None:
            with self.watch.on("correctness"):
                claimed = [phase for phase in self.task.workload.phases if phase.name in claimed_s]
                passes = self.examination.model(claimed)
            with self.watch.on("timing"):
                whole = self._time_model(passes, _PASSES_S, precision)
        for one, found in whole.kept:
            if one.phase in claimed_s and unseen(found, claimed_s[one.phase], whole.tolerance):
                detail = f"what {self.task.operator.id} saves in bursts is not seen in a {one.phase} pass"
                return Doubt(Verdict.TIMING_INCONSISTENT, detail)
        return None

    def _time_operator(
        self, operator: OperatorInfo, measured: Sequence[Measured], seconds: float, precision: Precision, *, asked: bool
    ) -> tuple[Timed, Doubt | None]:
        """Times an operator's cases and gives their memory back; the aftermath's question about it may be `asked`."""
        found = self._measure(measured, seconds, precision.stop)
        tolerance = tolerance_of(measured, found, precision.calibration)
        timed = Timed(found, tolerance, rung(operator, measured, found, tolerance.spread))
        if asked and timed.proven:
            pairs = list(zip(measured, found, strict=True))
            heaviest = max(pairs, key=lambda pair: pair[0].calls * pair[1].baseline)
            timed = replace(timed, kept=[heaviest], claimed_s=self._claimed_seconds(pairs))
        self._drop(measured, [one for one, _ in timed.kept])
        return timed, too_fast(operator.id, measured, timed) or quickened(operator.id, measured, timed)

    def _claimed_seconds(self, pairs: Sequence[tuple[Measured, CallTime]]) -> dict[str, float]:
        """What the operator saves on grant, of one pass of each phase that the device can time to some microseconds."""
        claimed: dict[str, float] = {}
        cases = self.task.cases_of(self.task.operator.id)
        for case, (one, found) in zip(cases, pairs, strict=True):
            if one.program.scene.graph and rests_on_grant(found):
                saved = calls_a_pass(self.session, case) * found.saving
                claimed[one.phase] = claimed.get(one.phase, 0.0) + saved
        return claimed

    def _time_model(self, whole: Sequence[Measured], seconds: float, precision: Precision) -> Timed:
        found = self._measure(whole, seconds, precision.stop_whole)
        for one in whole:
            assert isinstance(one.program, Pass)
            one.program.judge_sample(f"a timed pass, {one.phase}")
        depth = (self.session.num_layers, int(self.task.model.config.num_hidden_layers))
        tolerance = precision.calibration.e2e
        pairs = list(zip(whole, found, strict=True))
        return Timed(found, tolerance, end_to_end(whole, found, depth, tolerance.spread), pairs)

    def _measure(self, measured: Sequence[Measured], seconds: float, half_width: float) -> list[CallTime]:
        """Times the cases of an operator, or the phases of the model, together."""
        duels = [self._duel(one) for one in measured]
        self.session.await_spare()
        with undisturbed():
            return measure(duels, seconds, half_width)

    def _drop(self, measured: Sequence[Measured], kept: Sequence[Measured]) -> None:
        """Gives the memory of what was timed back; the baseline keeps what the aftermath asks about."""
        for one in measured:
            self.contender.drop(one.program)
            if one not in kept:
                self._programs.remove(one.program)
                self.session.baseline.drop(one.program)

    def _duel(self, one: Measured) -> Duel:
        """Makes a program ready to be timed; what every window gives is judged as well."""
        program = one.program
        self.session.baseline.prepare(program)
        self._programs.append(program)
        self.contender.check_pages(program.scene)
        self.contender.set_pages(program)
        pairing = Pairing(self.session, self.contender, program, one.expected)
        return Duel(
            partial(pairing.window, 0),
            partial(pairing.window, 1),
            len(program.calls),
            self.session.rng,
            weight=one.calls,
            fixed_s=_FIXED_S[program.region.device.type],
            prepare=pairing.renew,
            check=pairing.judge,
            settle=pairing.settle,
            quiet=pairing.quiet,
            slowed=pairing.slowed,
        )
