"""One candidate against the baseline: is it right, then how fast is it, rung by rung and end to end."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import Case, OperatorInfo, Task
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.clock import CallTime, Duel, measure, undisturbed
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.hard_values import HARD_VALUES
from fastkernels_gym.referee.numerics import ErrorRatio
from fastkernels_gym.referee.program import Expected, Program, expect, judge_together
from fastkernels_gym.referee.roofline import least_seconds, own_bytes
from fastkernels_gym.referee.scene import Call, Given, Scene
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.timings import Measured, Precision, Timings, end_to_end, rung
from fastkernels_gym.results import Correctness, Estimate, Verdict

_JUDGED = 2  # calls of a program whose every element is judged, or as many as make a statistic
_UNSEEN_CALLS = 2  # at lengths that are not in the observation, or as many as make a statistic
_BURST_S = 2e-3  # what a long burst should last, so that a window's own jitter is small beside it
_LEAST_CALL_S = 2e-6  # of the smallest kernel in a graph
_FEWEST_CALLS = 4  # of a program
_MOST_CALLS = {"cpu": 16, "cuda": 512}
_MOST_PASSES = 128  # of the model, to record them
# By how much two honest players' fixed costs differ, as a share of a window of one call: 15 to 196 us of 0.6 to 2 ms
# on an H200 (docs/decisions.md).
_FIXED_SPREAD = {"cpu": 0.0, "cuda": 0.1}
_POOL_BYTES = {"cpu": 1 << 29, "cuda": 1 << 31}  # inputs and outputs of a program's calls: far over any cache
_SHARES = {"op": 0.3, "ladder": 0.2, "e2e": 0.5}  # of the timing budget


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
                self._contender.load(self.candidate, self.task.operator, replaces)
            rungs = [] if self.task.level == 4 else [self.task.operator]
            rungs += list(self.task.ladder) if measure != "op" else []
            with self.watch.on("correctness"):
                ladder = [(rung, self._examine_operator(rung, thorough=rung == self.task.operator)) for rung in rungs]
                whole = self._examine_model() if measure == "e2e" or self.task.level == 4 else []
            with self.watch.on("timing"):
                timings = self._time(ladder, whole, budget_s, precision)
            self._check_arena()
            return timings
        finally:
            self._close()

    def _close(self) -> None:
        if self._contender is not None:
            self._contender.close()
        # A candidate that failed may have written them all the same; the next one must not feel it.
        if not self.session.weights.intact():
            self.session.weights.reveal()
        for program in self._programs:
            self.session.baseline.drop(program)
        self._programs.clear()

    # Correctness

    def _examine_operator(self, operator: OperatorInfo, *, thorough: bool) -> list[Measured]:
        measured = []
        for case in self.task.cases_of(operator.id):
            scene, hidden = self.session.scenes[case.phase], self.session.hidden[case.phase]
            (first,) = self._record(case, scene, 1)
            least_s = least_seconds(scene, first, self.session.ceilings)
            calls = self._record(case, scene, _burst_length(scene, first, least_s))
            program = self._new_program(scene, calls, needs_context=operator.level >= 2)
            expected = self._judge_program(program, operator.id)
            if thorough:
                self._judge_hard_values(program, operator.id)
                calls = self._record(case, hidden, max(_UNSEEN_CALLS, _statistic(hidden)))
                unseen = self._new_program(hidden, calls, needs_context=operator.level >= 2)
                self._judge_program(unseen, f"{operator.id} (unseen shapes)")
                self.contender.drop(unseen)
            shapes = " ".join(str(list(a.shape)) for a in case.args if a.shape is not None)
            measured.append(Measured(program, expected, case.phase, shapes, case.n * case.count, least_s))
        return measured

    def _examine_model(self) -> list[Measured]:
        measured = []
        for phase in self.task.workload.phases:
            scene = self.session.scenes[phase.name]
            scene.draw_tokens(scene.batch.input_ids)
            program = self._new_program(scene, [scene.whole_model()], needs_context=True)
            expected = self._judge_program(program, f"the full model, {phase.name}")
            if self.task.level == 4:
                hidden = self.session.hidden[phase.name]
                unseen = self._new_program(hidden, [hidden.whole_model()], needs_context=True)
                self._judge_program(unseen, f"the full model, {phase.name} (unseen shapes)")
                self.contender.drop(unseen)
            measured.append(Measured(program, expected, phase.name, f"{phase.tokens} tokens", phase.n))
        return measured

    def _record(self, case: Case, scene: Scene, most: int) -> list[Call]:
        """Calls of a case in a scene: as many as asked, but no KV page is written by two of them."""
        hidden = scene is not self.session.scenes[case.phase]
        paths = [path for path in case.paths if _depth(path) < self.session.num_layers]
        each = max(1, case.count // len(case.paths))  # a shared module is called by every layer
        wanted = dict.fromkeys(self.session.rng.sample(paths, min(len(paths), most)), each)
        most = min(most, _MOST_PASSES * each * len(wanted))
        shapes = Counter(arg.shape for arg in case.args if arg.is_tensor)

        def record() -> list[Call]:
            return [call for call in scene.record(wanted) if hidden or not _shapes(call) - shapes]

        calls = record()
        while calls and len(calls) < most and not scene.subject.writes_kv(case.paths[0]):
            calls += record()
        return calls[:most]

    def _new_program(self, scene: Scene, calls: list[Call], *, needs_context: bool) -> Program:
        self._serial += 1
        return Program(f"program-{self._serial}", scene, calls, needs_context=needs_context)

    def _judge_program(self, program: Program, name: str) -> dict[int, Expected]:
        """Real data, twice: right both times, or `nondeterministic`."""
        count = len(program.calls)
        self.contender.prepare(program)
        judged = self.session.rng.sample(range(count), min(count, max(_JUDGED, _statistic(program.scene))))
        expected = {index: expect(program, program.calls[index]) for index in judged}
        self._judge_window(program, expected, name)
        try:
            self._judge_window(program, expected, name)
        except CandidateFault as fault:
            if fault.verdict not in (Verdict.WRONG_VALUE, Verdict.UNWRITTEN_OUTPUT):
                raise
            raise CandidateFault(Verdict.NONDETERMINISTIC, f"right once, then: {fault.detail}") from fault
        if not self.contender.kept_inputs_intact(program):
            raise CandidateFault(Verdict.MUTATED_INPUT, f"{name}: an argument was written that must stay as it was")
        return expected

    def _judge_window(self, program: Program, expected: dict[int, Expected], name: str) -> None:
        self.contender.set_pages(program)
        self.contender.run(program, len(program.calls))
        self._note(self._judge_calls(program, expected, name), name)
        self.rounds += 1

    def _judge_calls(self, program: Program, expected: dict[int, Expected], name: str) -> ErrorRatio:
        """Each call that has rows enough by itself, all together where they have not."""
        calls = [(self.contender.outputs(program, index), truth) for index, truth in expected.items()]
        groups = [calls] if _statistic(program.scene) > 1 else [[call] for call in calls]
        ratios = [judge_together(name, group) for group in groups]
        return ErrorRatio(max(ratio.rms for ratio in ratios), max(ratio.max for ratio in ratios))

    def _judge_hard_values(self, program: Program, name: str) -> None:
        if not any(isinstance(a, Given) and a.tensor.is_floating_point() for a in program.calls[0].arguments):
            return
        count = len(program.calls)
        for kind, change in HARD_VALUES.items():
            calls, expected = [*program.calls], {}
            for index in self.session.rng.sample(range(count), min(count, _statistic(program.scene))):
                if (hard := _fit(program, index, change)) is not None:
                    calls[index], expected[index] = hard
            if expected:
                program.fill(calls)
                self._judge_window(program, expected, f"{name} ({kind})")
        program.fill(program.calls)
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
            if not self.contender.kv_intact(scene):
                raise CandidateFault(Verdict.MUTATED_INPUT, "KV pages were written that belong to other tokens")
        if not self.session.weights.intact():
            raise CandidateFault(Verdict.PROTOCOL_TAMPER, "weights were overwritten")

    # Timing

    def _time(
        self,
        ladder: list[tuple[OperatorInfo, list[Measured]]],
        whole: list[Measured],
        budget_s: float,
        precision: Precision,
    ) -> Timings:
        groups = [("op" if index == 0 else "ladder", measured) for index, (_, measured) in enumerate(ladder)]
        groups += [("e2e", whole)] if whole else []
        share = {kind: _SHARES[kind] / sum(k == kind for k, _ in groups) for kind, _ in groups}
        left, deadline = sum(share[kind] for kind, _ in groups), time.monotonic() + budget_s
        timings, times = Timings(), []
        for kind, measured in groups:
            seconds = max(0.0, deadline - time.monotonic()) * share[kind] / left
            times.append(self._measure(measured, seconds, precision.stop))
            left -= share[kind]
        rungs = []
        for (operator, measured), found in zip(ladder, times, strict=False):
            rungs.append(rung(operator, measured, found))
        timings.ladder = tuple(rungs)
        if whole:
            depth = (self.session.num_layers, int(self.task.model.config.num_hidden_layers))
            timings.e2e = end_to_end(whole, times[-1], depth)
        estimates: list[Estimate] = [*rungs[:1], *([timings.e2e] if timings.e2e else [])]
        timings.stable = all(e.half_width <= precision.stable for e in estimates)
        return timings

    def _measure(self, measured: Sequence[Measured], seconds: float, half_width: float) -> list[CallTime]:
        """Times the cases of an operator, or the phases of the model, together."""
        with undisturbed():
            times = measure([self._duel(one) for one in measured], seconds, half_width)
        for one in measured:
            self._programs.remove(one.program)
            for player in (self.session.baseline, self.contender):
                player.drop(one.program)
        return times

    def _duel(self, one: Measured) -> Duel:
        """Makes a program ready to be timed; every long burst's outputs are judged as well."""
        program, baseline = one.program, self.session.baseline
        baseline.prepare(program)
        self._programs.append(program)
        self.contender.set_pages(program)
        noise = _noise(list(one.expected.values()))

        def judge_again() -> None:
            self._judge_calls(program, one.expected, "a timed call")

        renewable = program.renewable
        return Duel(
            lambda n: self._run_baseline(program, n),
            lambda n: self.contender.run(program, n),
            len(program.calls),
            self.session.rng,
            weight=one.calls,
            fixed_spread=_FIXED_SPREAD[program.region.device.type],
            prepare=program.refresh if renewable else lambda: None,
            check=(lambda: self._compare(program, noise)) if renewable else judge_again,
        )

    def _run_baseline(self, program: Program, n: int) -> float:
        """A window of the baseline's player; on a CPU nothing of the candidate's runs beside it."""
        if program.region.device.type != "cpu":  # kernels that are launched run on
            return self.session.baseline.run(program, n)
        with self.contender.player.frozen():
            return self.session.baseline.run(program, n)

    def _compare(self, program: Program, noise: Sequence[float]) -> None:
        """Holds one call of the last pair's long bursts against the baseline's player, on the same inputs."""
        index = self.session.rng.randrange(len(program.calls))
        pairs = zip(
            self.contender.outputs(program, index), self.session.baseline.outputs(program, index), noise, strict=True
        )
        for position, (ours, theirs, floor) in enumerate(pairs):
            if ours is None or theirs is None:
                continue
            if not theirs.is_floating_point():
                if not torch.equal(ours, theirs):
                    raise CandidateFault(Verdict.WRONG_VALUE, f"a timed call: output {position} differs")
                continue
            distance = numerics.pair_distance(ours, theirs, floor)
            if not numerics.same_places(ours, theirs) or distance > numerics.PAIR_RATIO:
                what = f"a timed call: output {position}: {distance:.3g} noise floors from the baseline's"
                raise CandidateFault(Verdict.WRONG_VALUE, f"{what} (allowed {numerics.PAIR_RATIO:g})")


def _noise(expected: Sequence[Expected]) -> list[float]:
    """The baseline's own relative error in each output, the worst of the calls that were judged."""
    worst = [0.0] * len(expected[0].baseline)
    for one in expected:
        for index, (base, truth) in enumerate(zip(one.baseline, one.oracle, strict=True)):
            if base is not None and truth is not None and base.is_floating_point():
                worst[index] = max(worst[index], numerics.relative_rms(base, truth))
    return worst


def _fit(program: Program, index: int, change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Call, Expected] | None:
    """A call with its floats changed, made smaller until the baseline itself can be trusted with it."""
    for shrink in (1.0, 0.1, 0.01):
        call = program.calls[index].with_floats(lambda t, s=shrink: change(t) * s)  # type: ignore[misc]
        truth = expect(program, call)
        if not any(_unfit(base, oracle) for base, oracle in zip(truth.baseline, truth.oracle, strict=True)):
            return call, truth
    return None


def _statistic(scene: Scene) -> int:
    """How many of a scene's calls it takes for a ratio of errors to be a statistic: a row each token, at the least."""
    return math.ceil(numerics.FEWEST_ROWS / sum(scene.query_lens))


def _unfit(base: torch.Tensor | None, oracle: torch.Tensor | None) -> bool:
    return (
        base is not None and oracle is not None and base.is_floating_point() and numerics.baseline_is_off(base, oracle)
    )


def _depth(path: str) -> int:
    """The layer that a path lies in; 0 for what lies in none."""
    parts = path.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else 0


def _shapes(call: Call) -> Counter[tuple[int, ...] | None]:
    return Counter(tuple(a.tensor.shape) for a in call.arguments if isinstance(a, Given))


def _burst_length(scene: Scene, call: Call, least_s: float) -> int:
    """Calls enough for a burst of some length, but no more than memory holds."""
    device = scene.subject.device.type
    enough = max(_FEWEST_CALLS, math.ceil(_BURST_S / max(least_s, _LEAST_CALL_S)))
    room = max(_FEWEST_CALLS, _POOL_BYTES[device] // max(1, own_bytes(scene, call)))
    return min(enough, room, _MOST_CALLS[device])
