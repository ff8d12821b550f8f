"""One candidate against the baseline: is it right, then how fast is it, rung by rung and end to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import OperatorInfo, Phase, Task
from fastkernels_gym.catalog.operators import siblings
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.aftermath import Aftermath
from fastkernels_gym.referee.clock import CallTime, Duel, measure, undisturbed
from fastkernels_gym.referee.consistency import Doubt, rests_on_grant, unseen
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.hard_values import HARD_VALUES, NOT_FINITE
from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.links import Pass
from fastkernels_gym.referee.numerics import ErrorRatio
from fastkernels_gym.referee.pairing import Pairing
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import affordable_length, burst_length, calls_a_pass, record, recorded
from fastkernels_gym.referee.roofline import work_of, work_of_pass
from fastkernels_gym.referee.scene import Call, Given, Scene
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
from fastkernels_gym.results import Correctness, Verdict

_JUDGED = 2  # calls of a program whose every element is judged, or as many as make a statistic
_UNSEEN_CALLS = 2  # at lengths that are not in the observation, or as many as make a statistic
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
    rounds: int = 0
    worst: ErrorRatio = ErrorRatio(0.0, 0.0)
    worst_at: str = ""
    _serial: int = 0
    _found_intact: bool = False
    _contender: Contender | None = None
    _programs: list[Program] = field(default_factory=list)

    @property
    def contender(self) -> Contender:
        assert self._contender is not None
        return self._contender

    @property
    def correctness(self) -> Correctness:
        return Correctness(self.rounds, self.worst.max, self.worst.rms, self.worst_at)

    def run(self, replaces: Sequence[str], measure: str, budget_s: float, precision: Precision) -> Timings:
        """Judges, then measures.

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
            timings = self._measure_rungs(measure, budget_s, precision)
            self._check_arena()
            with self.watch.on("timing"):
                replaced = [found for found in siblings(self.task.operator) if found.class_name in replaces]
                aftermath = Aftermath(self.session, self.task, replaced)
                timings.doubt = timings.doubt or aftermath.doubt(timings.operator, timings.whole)
                if timings.operator and timings.whole:
                    explained = aftermath.borne_out(timings.operator, timings.whole)
                    timings.unexplained = explained.estimate.speedup < timings.whole.estimate.speedup
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

    # Correctness

    def _examine_operator(self, operator: OperatorInfo, *, thorough: bool) -> list[Measured]:
        measured, cases = [], self.task.cases_of(operator.id)
        calls_of = partial(recorded if thorough else record, self.session)
        for case in cases:
            scene, hidden = self.session.scenes[case.phase], self.session.hidden[case.phase]
            (first,) = calls_of(case, scene, 1)
            work, ceilings = work_of(scene, first), self.session.ceilings
            least_s = ceilings.least_seconds(work)
            most = burst_length(scene, first, least_s, self.session.pool_bytes // len(cases))
            calls = calls_of(case, scene, most)
            program, expected, seconds = self._judge_calls(operator, scene, calls, operator.id)
            seen_s = 0.0
            if (length := affordable_length(scene, len(calls), seconds)) < len(calls):
                seen_s = seconds / len(calls)
                self.contender.drop(program)
                program, expected, _ = self._judge_calls(operator, scene, calls[:length], operator.id)
            if thorough:
                self._judge_hard_values(program, operator.id)
                calls = calls_of(case, hidden, max(_UNSEEN_CALLS, hidden.fewest_calls))
                unseen, *_ = self._judge_calls(operator, hidden, calls, f"{operator.id} (unseen shapes)")
                self.contender.drop(unseen)
            shapes = " ".join(str(list(a.shape)) for a in case.args if a.shape is not None)
            bounds = least_s, ceilings.impossible_below(work)
            measured.append(Measured(program, expected, case.phase, shapes, case.n * case.count, *bounds, seen_s))
        return measured

    def _examine_model(self, phases: Sequence[Phase]) -> list[Measured]:
        measured = []
        for phase in phases:
            scene = self.session.scenes[phase.name]
            program = self._new_pass(scene)
            expected, _ = self._judge_program(program, f"the full model, {phase.name}")
            if self.task.level == 4:
                hidden = self.session.hidden[phase.name]
                unseen = self._new_pass(hidden)
                self._judge_program(unseen, f"the full model, {phase.name} (unseen shapes)")
                self.contender.drop(unseen)
            work, ceilings = work_of_pass(scene), self.session.ceilings
            bounds = ceilings.least_seconds(work), ceilings.impossible_below(work)
            measured.append(Measured(program, expected, phase.name, f"{phase.tokens} tokens", phase.n, *bounds))
        return measured

    def _judge_calls(
        self, operator: OperatorInfo, scene: Scene, calls: list[Call], name: str
    ) -> tuple[Program, dict[int, Expected], float]:
        """A program of these calls, and what `_judge_program` gives of it."""
        self._serial += 1
        program = Program(f"program-{self._serial}", scene, calls, needs_context=operator.level >= 2)
        return program, *self._judge_program(program, name)

    def _new_pass(self, scene: Scene) -> Pass:
        """The full model's, on tokens new to its player; its page orders may overwrite what was scribbled."""
        self.contender.check_pages(scene)
        if scene.name in self.session.answers:
            scene.batch.input_ids.copy_(self.session.answers[scene.name][0])
        else:
            scene.draw_tokens(scene.batch.input_ids)
        self._serial += 1
        return Pass(f"program-{self._serial}", scene, self.session.rng)

    def _judge_program(self, program: Program, name: str) -> tuple[dict[int, Expected], float]:
        """Real data, twice: right both times, or `nondeterministic`; also the seconds of the faster window."""
        count = len(program.calls)
        self.contender.prepare(program)
        judged = self.session.rng.sample(range(count), min(count, max(_JUDGED, program.scene.fewest_calls)))
        expected = self._expect(program, judged)
        seconds = self._judge_window(program, expected, name)
        try:
            seconds = min(seconds, self._judge_window(program, expected, name))
        except CandidateFault as fault:
            if fault.verdict not in (Verdict.WRONG_VALUE, Verdict.UNWRITTEN_OUTPUT):
                raise
            raise CandidateFault(Verdict.NONDETERMINISTIC, f"right once, then: {fault.detail}") from fault
        if not self.contender.kept_inputs_intact(program):
            raise CandidateFault(Verdict.MUTATED_INPUT, f"{name}: an argument was written that must stay as it was")
        return expected, seconds

    def _expect(self, program: Program, judged: Sequence[int]) -> dict[int, Expected]:
        if not isinstance(program, Pass):
            return {index: expect(program, program.calls[index]) for index in judged}
        scene, answers = program.scene, self.session.answers
        if scene.name not in answers:
            answers[scene.name] = scene.batch.input_ids.clone(), expect(program, program.calls[0])
        return {0: answers[scene.name][1]}

    def _judge_window(self, program: Program, expected: dict[int, Expected], name: str) -> float:
        """Runs all calls and judges some; gives the window's seconds."""
        if isinstance(program, Pass):
            program.shuffle_pages()
        self.contender.set_pages(program)
        seconds = self.contender.run(program, len(program.calls))
        self._note(program.judge(partial(self.contender.outputs, program), expected, name), name)
        if isinstance(program, Pass):
            for seen in self.contender.seen(program):
                self._note(program.judge_link(seen, name), f"{name}, {program.name_of(seen.link)}")
            program.narrow()
            self.contender.check_pages(program.scene)
        self.rounds += 1
        return seconds

    def _judge_hard_values(self, program: Program, name: str) -> None:
        if not any(isinstance(a, Given) and a.tensor.is_floating_point() for a in program.calls[0].arguments):
            return
        count, module = len(program.calls), program.scene.subject.module.get_submodule(program.calls[0].path)
        spread = any(getattr(part, "spreads_nonfinite", False) for part in module.modules())
        try:
            for kind, change in HARD_VALUES.items():
                if kind == NOT_FINITE and spread:
                    continue
                calls, expected = [*program.calls], {}
                for index in self.session.rng.sample(range(count), min(count, program.scene.fewest_calls)):
                    if (hard := _fit(program, index, change)) is not None:
                        calls[index], expected[index] = hard
                if expected:
                    program.fill(calls)
                    self._judge_window(program, expected, f"{name} ({kind})")
            program.fill(program.calls)
        finally:
            # Hard values went through the referee's own pages too: the pass itself puts the right rows back.
            program.scene.record({})

    def _note(self, ratio: ErrorRatio, where: str) -> None:
        if ratio.rms / numerics.RMS_RATIO + ratio.max / numerics.MAX_RATIO > (
            self.worst.rms / numerics.RMS_RATIO + self.worst.max / numerics.MAX_RATIO
        ):
            self.worst_at = where
        self.worst = ErrorRatio(max(self.worst.rms, ratio.rms), max(self.worst.max, ratio.max))

    def _check_arena(self) -> None:
        self.contender.player.kill()
        for scene in self.session.scenes.values():
            self.contender.check_pages(scene)
        if not self.session.weights.intact():
            raise CandidateFault(Verdict.PROTOCOL_TAMPER, "weights were overwritten")
        self._found_intact = True

    # Timing

    def _measure_rungs(self, measure: str, budget_s: float, precision: Precision) -> Timings:
        """Judges and times rung after rung, the full model last: memory holds the calls of one of them."""
        rungs = [] if self.task.level == 4 else [self.task.operator]
        rungs += list(self.task.ladder) if measure != "op" else []
        shares = [_SHARES["op"] if index == 0 else _SHARES["ladder"] / (len(rungs) - 1) for index in range(len(rungs))]
        shares += [_SHARES["e2e"]] if measure == "e2e" or self.task.level == 4 else []
        timings, begin = Timings(precision), self.watch.timing
        for index, operator in enumerate(rungs):
            with self.watch.on("correctness"):
                measured = self._examine_operator(operator, thorough=index == 0)
            with self.watch.on("timing"):
                left = max(0.0, budget_s - (self.watch.timing - begin))
                seconds = left * shares[index] / sum(shares[index:])
                timings.add(*self._time_operator(operator, measured, seconds, precision, asked=index == 0))
            del measured  # gigabytes, which the next rung needs
        if len(shares) > len(rungs):
            with self.watch.on("correctness"):
                whole = self._examine_model(self.task.workload.phases)
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
                passes = self._examine_model([phase for phase in self.task.workload.phases if phase.name in claimed_s])
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


def _fit(program: Program, index: int, change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Call, Expected] | None:
    """A call with its floats changed, made smaller until the baseline itself can be trusted with it."""
    for shrink in (1.0, 0.1, 0.01):
        call = program.calls[index].with_floats(lambda t, s=shrink: change(t) * s)  # type: ignore[misc]
        truth = expect(program, call)
        if not any(_unfit(base, oracle) for base, oracle in zip(truth.baseline, truth.oracle, strict=True)):
            return call, truth
    return None


def _unfit(base: torch.Tensor | None, oracle: torch.Tensor | None) -> bool:
    return (
        base is not None and oracle is not None and base.is_floating_point() and numerics.baseline_is_off(base, oracle)
    )
