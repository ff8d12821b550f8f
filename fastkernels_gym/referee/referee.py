"""The trusted process: takes a request, gives an evaluation, and lives on whatever the candidate does."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import Task, load_task
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.errors import CandidateFault, HarnessFault
from fastkernels_gym.player import sandbox
from fastkernels_gym.player.first_uses import use_device
from fastkernels_gym.referee.calibration import Calibration
from fastkernels_gym.referee.device_slot import DeviceSlot
from fastkernels_gym.referee.device_state import identity, place
from fastkernels_gym.referee.feedback import fault_feedback, timing_feedback
from fastkernels_gym.referee.players import Zygote, warm_cache
from fastkernels_gym.referee.session import Session, session_key
from fastkernels_gym.referee.timings import Precision, Timings
from fastkernels_gym.referee.trial import Stopwatch, Trial
from fastkernels_gym.request import Deadlines, EvalRequest
from fastkernels_gym.results import Evaluation, Seconds, Verdict
from fastkernels_gym.reward import reward

# Relative half-widths of the confidence interval: at which measuring stops, an operator and the full model, and up to
# which the result is stable.
_TARGET = {"cpu": (0.045, 0.045, 0.05), "cuda": (0.005, 0.002, 0.02)}


class Referee:
    """Judges candidates one after the other on one device.

    Args:
        device: `cpu` or `cuda`.
        sandboxed: False lets candidates run unprotected, as plain processes.
        deadlines: of candidates.

    Raises:
        SandboxUnavailable: if this machine cannot give the sandbox.
    """

    def __init__(self, device: str, *, sandboxed: bool = True, deadlines: Deadlines | None = None) -> None:
        self._layers = sandbox.require() if sandboxed else ()
        self._device = torch.device("cuda:0" if device == "cuda" else "cpu")
        self._sandboxed, self._deadlines = sandboxed, deadlines or Deadlines()
        # One thread each: players that fight over cores cannot be timed.
        self._threads = 1
        torch.set_num_threads(self._threads)
        # What the referee compiles, players find compiled; what they compile, nobody else sees.
        for name, variable in sandbox.COMPILERS.items():
            os.environ[variable] = str(warm_cache() / name)
        use_device(self._device)
        # A CPU's cores are shared with whatever else runs; its clock allows for that.
        self._slot = DeviceSlot(identity(self._device).uuid) if device == "cuda" else None
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        self._zygote: Zygote | None = self._new_zygote()  # starts while the first task is read
        self._session: Session | None = None

    @property
    def device_name(self) -> str:
        return (
            torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else f"CPU ({os.cpu_count()} cores)"
        )

    def evaluate(self, request: EvalRequest, *, queue_s: float = 0.0) -> Evaluation:
        """Judges one candidate; whatever goes wrong is in the evaluation.

        Raises:
            UserError: on a task that does not exist.
        """
        task = load_task(request.task)
        try:
            with self._slot.held() if self._slot else nullcontext(0.0) as waited_s:
                return self._evaluate(task, request, queue_s + waited_s)
        except HarnessFault as fault:  # the slot's: what goes wrong within is in the evaluation
            return self._fault(task, request, Verdict.INFRA_ERROR, str(fault), ())

    def _evaluate(self, task: Task, request: EvalRequest, queue_s: float) -> Evaluation:
        begin, watch = time.monotonic(), Stopwatch()
        try:
            candidate = Candidate.parse(request.source)
            siblings = {find_operator(name).class_name: name for name in task.replaced_with}
            names = candidate.replaces(task.operator.class_name, list(siblings))
            replaces = [siblings.get(name, task.operator.id) for name in names]
        except CandidateFault as fault:
            evaluation = self._fault(task, request, fault.verdict, fault.detail, ())
        else:
            evaluation = self._judge(task, request, candidate, replaces, watch)
        seconds = Seconds(time.monotonic() - begin + queue_s, queue_s, watch.build, watch.correctness, watch.timing)
        return evaluation.replace(seconds=seconds, device=self.device_name, sandbox=self._layers)

    def close(self) -> None:
        """Ends every process and gives the device's memory back."""
        self._end_session()
        if self._zygote is not None:
            self._zygote.close()
        self._zygote = None

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _judge(
        self, task: Task, request: EvalRequest, candidate: Candidate, replaces: Sequence[str], watch: Stopwatch
    ) -> Evaluation:
        """Two tries: what failed by infrastructure, was unstable or is in doubt is repeated once with fresh players."""
        evaluation = None
        for _ in range(2):
            trial = None
            try:
                session = self._session_of(task)
                session.begin_trial(fresh=request.calibrating)
                trial = Trial(session, task, candidate, watch)
                classes = [find_operator(name).class_name for name in replaces]
                timings = trial.run(
                    classes,
                    request.measure,
                    request.budget_s,
                    self._precision(request),
                    calibrating=request.calibrating,
                )
            except CandidateFault as fault:
                return self._fault(task, request, fault.verdict, fault.detail, replaces, candidate.warnings)
            except (HarnessFault, torch.OutOfMemoryError, torch.AcceleratorError) as error:
                error.__traceback__ = None  # its frames hold the session's memory
                self.close()
                evaluation = self._fault(task, request, Verdict.INFRA_ERROR, str(error), replaces)
                continue
            evaluation = self._success(task, request, trial, timings, replaces, candidate.warnings)
            if (timings.stable and timings.doubt is None) or request.calibrating:
                break
        assert evaluation is not None
        return evaluation

    def _precision(self, request: EvalRequest) -> Precision:
        found = Calibration.stored(self._device.type, identity(self._device))
        return Precision(*_TARGET[self._device.type], found.without_spread if request.calibrating else found)

    def _session_of(self, task: Task) -> Session:
        self._zygote = self._zygote or self._new_zygote()
        if self._session is not None and self._session.key != session_key(task):
            self._end_session()
        if self._session is None:
            self._session = Session(task, self._device, self._zygote, self._threads, self._deadlines)
        return self._session

    def _new_zygote(self) -> Zygote:
        return Zygote(place(self._device), sandboxed=self._sandboxed)

    def _success(
        self,
        task: Task,
        request: EvalRequest,
        trial: Trial,
        timings: Timings,
        replaces: Sequence[str],
        warnings: Sequence[str],
    ) -> Evaluation:
        evaluation = Evaluation(
            task=task.id,
            verdict=timings.doubt.verdict if timings.doubt else Verdict.OK,
            replaces=tuple(replaces),
            stable=timings.stable,
            reward_kind=request.reward_kind,
            dead_band=timings.dead_band(request.reward_kind),
            e2e=timings.e2e,
            ladder=timings.ladder,
            correctness=trial.examination.correctness,
            warnings=tuple(warnings),
            feedback=timing_feedback(timings),
        )
        return evaluation.replace(reward=reward(evaluation, request.reward_kind))

    def _fault(
        self,
        task: Task,
        request: EvalRequest,
        verdict: Verdict,
        detail: str,
        replaces: Sequence[str],
        warnings: Sequence[str] = (),
    ) -> Evaluation:
        return Evaluation(
            task=task.id,
            verdict=verdict,
            replaces=tuple(replaces),
            reward_kind=request.reward_kind,
            warnings=tuple(warnings),
            feedback=fault_feedback(verdict, detail),
        )
