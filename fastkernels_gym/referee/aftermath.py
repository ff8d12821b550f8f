"""When the candidate is dead: whether what it seemed to save can be true. The baseline's player is alone by then.

Whether it can be is asked only of a speedup that would count as proven, so an honest kernel that is no faster waits for
none of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from fastkernels_gym.catalog import Case, OperatorInfo, Task
from fastkernels_gym.referee.clock import Burst, CallTime, Duel, call_time, undisturbed
from fastkernels_gym.referee.consistency import (
    DRIFT,
    Doubt,
    at_most,
    explained,
    saves_more,
    slower_in_company,
    upper_seconds,
)
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.recording import calls_a_pass, record
from fastkernels_gym.referee.running import run_baseline
from fastkernels_gym.referee.session import Session
from fastkernels_gym.referee.settling import settle
from fastkernels_gym.referee.timings import Measured, Timed, remeasured
from fastkernels_gym.results import Verdict

_FEWEST_BLOCKS, _MOST_BLOCKS = 3, 5  # two windows of the baseline in each
_SECONDS = 0.25  # for the blocks beyond the fewest
_SIBLING_CALLS = 8  # of a case whose time is only a bound
_LOOSE = 1.5  # a bound over this many times the reading says nothing


class Aftermath:
    """The questions about one candidate's timing.

    Args:
        session: the model's; its baseline has the programs that are asked about.
        task: what the candidate replaced.
        others: the operators that it defines beside the task's.
    """

    def __init__(self, session: Session, task: Task, others: Sequence[OperatorInfo] = ()) -> None:
        self._session, self._task, self._others = session, task, others
        self._drift = DRIFT[session.subject.device.type]
        self._serial = 0
        self._call_s: dict[Case, float] = {}

    def doubt(self, operator: Timed | None, whole: Timed | None) -> Doubt | None:
        """Why the timing is not believed; None where nothing speaks against it.

        Args:
            operator: the replaced one, where it was timed by itself.
            whole: the full model, where it was.
        """
        with undisturbed():
            if whole is not None and operator is not None and whole.proven:
                for phase, found in whole.kept:
                    if saves_more(found, self._possible_seconds(operator, phase, found), whole.tolerance):
                        detail = f"a {phase.phase} pass saves more than the baseline spends in what was replaced"
                        return Doubt(Verdict.TIMING_INCONSISTENT, detail)
            for timed in (operator, whole):
                if timed is None or not timed.proven or math.isinf(self._drift):
                    continue
                for one, found in timed.kept:
                    if slower_in_company(found, self._alone(one.program), timed.tolerance, self._drift):
                        detail = f"the baseline's {one.phase} is faster without the candidate's process beside it"
                        return Doubt(Verdict.TIMING_INCONSISTENT, detail)
        return None

    def borne_out(self, operator: Timed, whole: Timed) -> Timed:
        """The full model's timing, with no more saved than the operator's own timing explains.

        Else a candidate would be paid for another operator, made faster from within, by less than its own takes. So it
        is of any saving: rewards go by the estimate, proven or not.
        """
        if whole.estimate.speedup <= 1.0:
            return whole
        with undisturbed():
            return remeasured(whole, [self._explained(operator, phase, found) for phase, found in whole.kept])

    def _explained(self, operator: Timed, phase: Measured, found: CallTime) -> CallTime:
        calls = self._calls(operator, phase)
        possible = explained([(n, taken) for _, n, taken in calls])
        if found.saving > possible[0]:
            possible = possible + self._granted_seconds(phase, calls)
        return at_most(found, possible)

    def _calls(self, operator: Timed, phase: Measured) -> list[tuple[Case, int, CallTime]]:
        """The operator's cases in a phase: how often a pass makes their call, and its time."""
        pairs = zip(self._task.cases_of(self._task.operator.id), operator.times, strict=True)
        return [(case, calls_a_pass(self._session, case), taken) for case, taken in pairs if case.phase == phase.phase]

    def _granted_seconds(self, phase: Measured, calls: Sequence[tuple[Case, int, CallTime]]) -> float:
        """What a pass may save beside the operator's own savings.

        All that other operators take which the candidate defines, and what launching this one costs, where the pass
        launches it and a graph was timed.
        """
        granted = self._seconds_of(self._others, phase)
        scene = phase.program.scene
        if scene.subject.device.type == "cuda" and not scene.graph:
            for case, n, taken in calls:
                granted += n * max(0.0, self._call_seconds(self._task.operator, case) - taken.baseline)
        return granted

    def _possible_seconds(self, operator: Timed, phase: Measured, found: CallTime) -> float:
        """What a pass can save at most: by what was measured of the operator, or what else may be counted for it."""
        known = sum(n * self._most_seconds(case, taken) for case, n, taken in self._calls(operator, phase))
        if found.saving <= known:
            return known
        return max(known, self._seconds_of([self._task.operator, *self._others], phase))

    def _most_seconds(self, case: Case, taken: CallTime) -> float:
        """What a call of the operator takes the baseline at most; asked again where its timing was too noisy to say."""
        most = upper_seconds(taken)
        if most <= _LOOSE * taken.baseline:
            return most
        return min(most, self._call_seconds(self._task.operator, case))

    def _seconds_of(self, operators: Sequence[OperatorInfo], phase: Measured) -> float:
        """Seconds of a pass that the baseline spends in operators, launched as the pass does."""
        total = 0.0
        for operator in operators:
            for case in self._task.cases_of(operator.id):
                if case.phase == phase.phase:
                    total += calls_a_pass(self._session, case) * self._call_seconds(operator, case)
        return total

    def _call_seconds(self, operator: OperatorInfo, case: Case) -> float:
        """What a call takes the baseline at most, launched as the pass does; measured once, whoever asks."""
        if case not in self._call_s:
            self._call_s[case] = self._measured_seconds(operator, case)
        return self._call_s[case]

    def _measured_seconds(self, operator: OperatorInfo, case: Case) -> float:
        scene = self._session.scenes[case.phase]
        calls = record(self._session, case, scene, _SIBLING_CALLS)
        self._serial += 1
        kind = Program if scene.graph else _Launched
        program = kind(f"aftermath-{self._serial}", scene, calls, needs_context=operator.level >= 2)
        self._session.baseline.prepare(program)
        program.on_device = self._session.baseline.captured(program)
        try:
            return upper_seconds(self._alone(program))
        finally:
            self._session.baseline.drop(program)

    def _alone(self, program: Program) -> CallTime:
        """The baseline's windows, in the order and after the load that they have in a pair."""
        baseline = self._session.baseline

        def window(n: int) -> float:
            return baseline.run(program, n)

        # A burst's first window after another player's is not counted: the baseline's own can stand in for those. A
        # window of the whole model follows the referee's own pass, as it followed the candidate's.
        other: Burst = window if len(program.calls) > 1 else lambda _: self._own_pass(program)
        duel = Duel(
            window,
            other,
            len(program.calls),
            self._session.rng,
            prepare=program.refresh,
            settle=lambda player: settle(program, baseline) if player == 0 or other is window else None,
        )
        deadline = time.monotonic() + _SECONDS
        while duel.samples.blocks < _FEWEST_BLOCKS or (
            duel.samples.blocks < _MOST_BLOCKS and time.monotonic() < deadline
        ):
            duel.block()
        return call_time(duel.samples)

    def _own_pass(self, program: Program) -> float:
        begin = time.perf_counter()
        run_baseline(program.scene, program.calls[0])
        if self._session.subject.device.type == "cuda":
            torch.cuda.synchronize(self._session.subject.device)
        return time.perf_counter() - begin


class _Launched(Program):
    """Calls that are launched one by one, as a phase without a graph does it: what launching costs is theirs too."""

    def message(self) -> dict[str, Any]:
        return {**super().message(), "graph": False}
