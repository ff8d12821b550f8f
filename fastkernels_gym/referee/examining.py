"""Is a candidate right: calls of an operator and passes of the model, judged before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from fastkernels_gym.catalog import OperatorInfo, Phase, Task
from fastkernels_gym.catalog.work import Work
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.hard_values import HARD_VALUES, NOT_FINITE
from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.links import Pass
from fastkernels_gym.referee.numerics import ErrorRatio
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import affordable_length, burst_length, record, recorded
from fastkernels_gym.referee.roofline import work_of, work_of_pass
from fastkernels_gym.referee.scene import Call, Given, Scene
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.timings import Measured
from fastkernels_gym.results import Correctness, Verdict

_JUDGED = 2  # calls of a program whose every element is judged, or as many as make a statistic
_UNSEEN_CALLS = 2  # at lengths that are not in the observation, or as many as make a statistic


class Examination:
    """What one candidate's outputs are held against, and how far off they were.

    Args:
        session: the model's.
        task: what the candidate replaces.
        contender: its player.
    """

    def __init__(self, session: Session, task: Task, contender: Contender) -> None:
        self._session, self._task, self._contender = session, task, contender
        self._rounds, self._serial = 0, 0
        self._worst, self._worst_at = ErrorRatio(0.0, 0.0), ""

    @property
    def correctness(self) -> Correctness:
        """Rounds so far, and the largest error ratios."""
        return Correctness(self._rounds, self._worst.max, self._worst.rms, self._worst_at)

    def operator(self, operator: OperatorInfo, *, thorough: bool) -> list[Measured]:
        """Judges the calls that its bursts will be made of.

        Args:
            operator: which.
            thorough: with hard values and at lengths that are not in the observation, too.

        Returns:
            A program for each case, ready to be timed.

        Raises:
            CandidateFault: the verdict, where it is not `ok`.
        """
        measured, cases = [], self._task.cases_of(operator.id)
        calls_of = partial(recorded if thorough else record, self._session)
        for case in cases:
            scene, hidden = self._session.scenes[case.phase], self._session.hidden[case.phase]
            (first,) = calls_of(case, scene, 1)
            least_s, impossible_s = self._bounds(work_of(scene, first))
            most = burst_length(scene, first, least_s, self._session.pool_bytes // len(cases))
            calls = calls_of(case, scene, most)
            program, expected, seconds = self._judge_calls(operator, scene, calls, operator.id)
            seen_s = 0.0
            if (length := affordable_length(scene, len(calls), seconds)) < len(calls):
                seen_s = seconds / len(calls)
                self._contender.drop(program)
                program, expected, _ = self._judge_calls(operator, scene, calls[:length], operator.id)
            if thorough:
                self._judge_hard_values(program, operator.id)
                calls = calls_of(case, hidden, max(_UNSEEN_CALLS, hidden.fewest_calls))
                unseen, *_ = self._judge_calls(operator, hidden, calls, f"{operator.id} (unseen shapes)")
                self._contender.drop(unseen)
            shapes = " ".join(str(list(a.shape)) for a in case.args if a.shape is not None)
            count = case.n * case.count
            measured.append(Measured(program, expected, case.phase, shapes, count, least_s, impossible_s, seen_s))
        return measured

    def model(self, phases: Sequence[Phase]) -> list[Measured]:
        """Judges a pass of each phase, layer by layer; as `operator`."""
        measured = []
        for phase in phases:
            scene = self._session.scenes[phase.name]
            program = self._new_pass(scene)
            expected, _ = self._judge_program(program, f"the full model, {phase.name}")
            if self._task.level == 4:
                hidden = self._session.hidden[phase.name]
                unseen = self._new_pass(hidden)
                self._judge_program(unseen, f"the full model, {phase.name} (unseen shapes)")
                self._contender.drop(unseen)
            bounds = self._bounds(work_of_pass(scene))
            measured.append(Measured(program, expected, phase.name, f"{phase.tokens} tokens", phase.n, *bounds))
        return measured

    def _bounds(self, work: Work) -> tuple[float, float]:
        """Seconds that the device takes at least from its memory, and that nothing falls short of."""
        return self._session.ceilings.least_seconds(work), self._session.ceilings.impossible_below(work)

    def _judge_calls(
        self, operator: OperatorInfo, scene: Scene, calls: list[Call], name: str
    ) -> tuple[Program, dict[int, Expected], float]:
        """A program of these calls, and what `_judge_program` gives of it."""
        self._serial += 1
        program = Program(f"program-{self._serial}", scene, calls, needs_context=operator.level >= 2)
        return program, *self._judge_program(program, name)

    def _new_pass(self, scene: Scene) -> Pass:
        """The full model's, on tokens new to its player; its page orders may overwrite what was scribbled."""
        self._contender.check_pages(scene)
        if scene.name in self._session.answers:
            scene.batch.input_ids.copy_(self._session.answers[scene.name][0])
        else:
            scene.draw_tokens(scene.batch.input_ids)
        self._serial += 1
        return Pass(f"program-{self._serial}", scene, self._session.rng)

    def _judge_program(self, program: Program, name: str) -> tuple[dict[int, Expected], float]:
        """Real data, twice: right both times, or `nondeterministic`; also the seconds of the faster window."""
        count = len(program.calls)
        self._contender.prepare(program)
        judged = self._session.rng.sample(range(count), min(count, max(_JUDGED, program.scene.fewest_calls)))
        expected = self._expect(program, judged)
        seconds = self._judge_window(program, expected, name)
        try:
            seconds = min(seconds, self._judge_window(program, expected, name))
        except CandidateFault as fault:
            if fault.verdict not in (Verdict.WRONG_VALUE, Verdict.UNWRITTEN_OUTPUT):
                raise
            raise CandidateFault(Verdict.NONDETERMINISTIC, f"right once, then: {fault.detail}") from fault
        if not self._contender.kept_inputs_intact(program):
            raise CandidateFault(Verdict.MUTATED_INPUT, f"{name}: an argument was written that must stay as it was")
        return expected, seconds

    def _expect(self, program: Program, judged: Sequence[int]) -> dict[int, Expected]:
        if not isinstance(program, Pass):
            return {index: expect(program, program.calls[index]) for index in judged}
        scene, answers = program.scene, self._session.answers
        if scene.name not in answers:
            answers[scene.name] = scene.batch.input_ids.clone(), expect(program, program.calls[0])
        return {0: answers[scene.name][1]}

    def _judge_window(self, program: Program, expected: dict[int, Expected], name: str) -> float:
        """Runs all calls and judges some; gives the window's seconds."""
        if isinstance(program, Pass):
            program.shuffle_pages()
        self._contender.set_pages(program)
        seconds = self._contender.run(program, len(program.calls))
        self._note(program.judge(partial(self._contender.outputs, program), expected, name), name)
        if isinstance(program, Pass):
            for seen in self._contender.seen(program):
                self._note(program.judge_link(seen, name), f"{name}, {program.name_of(seen.link)}")
            program.narrow()
            self._contender.check_pages(program.scene)
        self._rounds += 1
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
                for index in self._session.rng.sample(range(count), min(count, program.scene.fewest_calls)):
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
            self._worst.rms / numerics.RMS_RATIO + self._worst.max / numerics.MAX_RATIO
        ):
            self._worst_at = where
        self._worst = ErrorRatio(max(self._worst.rms, ratio.rms), max(self._worst.max, ratio.max))


def _fit(program: Program, index: int, change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Call, Expected] | None:
    """A call with its floats changed, made smaller until the baseline itself can be trusted with it."""
    for shrink in (1.0, 0.1, 0.01):
        call = program.calls[index].with_floats(lambda t, s=shrink: change(t) * s)  # type: ignore[misc]
        truth = expect(program, call)
        if truth.fit:
            return call, truth
    return None
