"""The clock tested on a device: the baseline's own file judged over and over, by fresh players, must read 1.00x.

What the readings scatter by beyond their stated intervals is what one player differs from the next by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from fastkernels_gym.catalog import list_tasks, load_task
from fastkernels_gym.errors import HarnessFault
from fastkernels_gym.executor.evaluator import Evaluator
from fastkernels_gym.referee import calibration
from fastkernels_gym.referee.calibration import CLOCK, LONG_CALL_US, Z95, Figures, Kind
from fastkernels_gym.referee.device_state import DeviceState, Identity, gpu, identity
from fastkernels_gym.request import EvalRequest
from fastkernels_gym.results import Evaluation, Measure, Rung, Verdict

# An operator whose calls take over 20 us, one of shorter calls, the full model.
DEFAULT_TASKS = {
    "cpu": ("L1/linear@tiny-llama", "L1/embedding@tiny-llama", "L4/llama@tiny-llama"),
    "cuda": ("L1/flash_attn_decode@llama-3.1-8b", "L1/rotary_emb@llama-3.1-8b", "L4/llama@llama-3.1-8b"),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One A/A run.

    Args:
        task: its id.
        kind: of what was timed.
        verdict: `ok`, or what went wrong; then there are no figures.
        speedup: baseline over baseline.
        ci95: its interval, the spread between players not included.
        seconds: that the evaluation took.
        feedback: of a run that went wrong.
    """

    task: str
    kind: Kind
    verdict: str
    speedup: float | None
    ci95: tuple[float, float] | None
    seconds: float
    feedback: str = ""

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        seconds = evaluation.seconds.total - evaluation.seconds.queue
        found = evaluation.op
        kind = _kind(found) if isinstance(found, Rung) else Kind.E2E
        if evaluation.verdict is not Verdict.OK or found is None:
            return cls(evaluation.task, kind, evaluation.verdict, None, None, seconds, evaluation.feedback)
        return cls(evaluation.task, kind, evaluation.verdict, found.speedup, found.ci95, seconds)

    @property
    def sample(self) -> tuple[float, float] | None:
        """Log-speedup and its standard error."""
        if self.speedup is None or self.ci95 is None:
            return None
        low, high = map(math.log, self.ci95)
        return math.log(self.speedup), (high - low) / 2 / Z95


@dataclass(slots=True)
class SelfTest:
    """A device's self-test, as far as it got.

    Args:
        identity: of the device.
        budget_s: seconds of timing a run.
        runs: in the order in which they were made.
    """

    identity: Identity
    device: torch.device
    budget_s: float
    begin: DeviceState | None
    runs: list[Run] = field(default_factory=list)
    end: DeviceState | None = None
    date: str = field(default_factory=calibration.now)

    @classmethod
    def start(cls, device: str, budget_s: float) -> Self:
        """Before the first run on `cpu` or `cuda`."""
        place = torch.device("cuda:0" if device == "cuda" else "cpu")
        return cls(identity(place), place, budget_s, _state(place))

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.end, self.date = _state(self.device), calibration.now()

    @property
    def figures(self) -> Mapping[Kind, Figures]:
        """Of each kind that was timed."""
        found = {kind: [run.sample for run in self.runs if run.kind is kind and run.sample] for kind in Kind}
        return {kind: Figures.of(samples, self.date) for kind, samples in found.items() if samples}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {
            "clock": CLOCK,
            "identity": asdict(self.identity),
            "date": self.date,
            "budget_s": self.budget_s,
            "state": {"begin": self.begin and asdict(self.begin), "end": self.end and asdict(self.end)},
            "figures": {kind.value: asdict(found) for kind, found in self.figures.items()},
            "runs": [asdict(run) for run in self.runs],
        }

    def store(self) -> Path:
        """Puts the figures in force on this device."""
        return calibration.store(self.identity, self.figures, self.to_dict())


def chosen_tasks(patterns: Iterable[str], device: str) -> tuple[str, ...]:
    """The tasks that a self-test runs: by globs over ids, else the device's own.

    Raises:
        UnknownTask: if a pattern matches nothing.
    """
    found = [task for pattern in patterns for task in list_tasks(pattern)]
    return tuple(dict.fromkeys(found)) or DEFAULT_TASKS[device]


def self_test(evaluator: Evaluator, tasks: Sequence[str], runs: int, budget_s: float) -> Iterator[Run]:
    """Makes the A/A runs, the tasks by turns, so that an end at any time leaves as many of each.

    Args:
        evaluator: of the device.
        tasks: L4 ones are timed end to end, others as operators.
        runs: of each task.
        budget_s: seconds of timing a run at the most.

    Raises:
        HarnessFault: if the first run of any task fails: so would all others.
    """
    sources = {task: Path(load_task(task).operator.path).read_text(encoding="utf-8") for task in tasks}
    for index in range(runs):
        for task in tasks:
            measure: Measure = "e2e" if load_task(task).level == 4 else "op"
            request = EvalRequest(task, sources[task], measure, budget_s=budget_s, calibrating=True)
            run = Run.of(evaluator.submit(request).result())
            if index == 0 and run.sample is None:
                raise HarnessFault(f"the baseline of {task} is not judged ok: {run.feedback or run.verdict}")
            yield run


def _kind(rung: Rung) -> Kind:
    """By where most of the time goes."""
    long = sum(c.calls * c.baseline_us for c in rung.cases if c.baseline_us > LONG_CALL_US)
    return Kind.LONG if long >= sum(c.calls * c.baseline_us for c in rung.cases) / 2 else Kind.SHORT


def _state(device: torch.device) -> DeviceState | None:
    found = gpu(device)
    return found.state() if found else None
