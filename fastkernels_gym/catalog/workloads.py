"""Workloads: the serving phases that a model is timed on."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from fastkernels_gym.errors import UnknownTask


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of step.

    Args:
        name: `prefill` or `decode`.
        batch: sequences in a step.
        query_len: new tokens of each sequence.
        context_len: tokens of each sequence that the KV cache holds already.
        n: how often the workload runs the step; timings are weighted by it.
    """

    name: str
    batch: int
    query_len: int
    context_len: int
    n: int

    @property
    def tokens(self) -> int:
        """New tokens in a step."""
        return self.batch * self.query_len

    @property
    def length(self) -> int:
        """Positions that each sequence takes."""
        return self.context_len + self.query_len


@dataclass(frozen=True, slots=True)
class Workload:
    """Named phases; with one phase taken out of it, it keeps its name."""

    name: str
    phases: tuple[Phase, ...]

    @property
    def length(self) -> int:
        """The longest sequence of any phase."""
        return max(phase.length for phase in self.phases)

    def only(self, phase_name: str) -> Workload:
        """The workload with one of its phases.

        Raises:
            UnknownTask: if it has no such phase.
        """
        phases = tuple(phase for phase in self.phases if phase.name == phase_name)
        if not phases:
            names = ", ".join(phase.name for phase in self.phases)
            raise UnknownTask(f"workload {self.name!r} has no phase {phase_name!r}: it has {names}")
        return Workload(self.name, phases)


CHAT = Workload("chat", (Phase("prefill", 1, 2048, 0, n=32), Phase("decode", 32, 1, 1024, n=256)))
TINY = Workload("tiny", (Phase("prefill", 2, 64, 0, n=1), Phase("decode", 4, 1, 64, n=16)))
# Shapes that no training task has: `catalog/manifest.py`.
LONG = Workload("long", (Phase("prefill", 1, 8192, 0, n=8), Phase("decode", 8, 1, 8192, n=256)))
TINY_LONG = Workload("tiny-long", (Phase("prefill", 1, 200, 0, n=1), Phase("decode", 3, 1, 200, n=16)))
# What `benchmarks/operator_latency.py` measures, and others have measured.
PREFILL_4K = Workload("prefill-4k", (Phase("prefill", 1, 4096, 0, n=1),))
WORKLOADS = {workload.name: workload for workload in (CHAT, TINY, LONG, TINY_LONG, PREFILL_4K)}


def default_workload(model_name: str) -> Workload:
    """`tiny` for models named `tiny-*`, `chat` for all others."""
    return TINY if model_name.startswith("tiny-") else CHAT


def load_workload(name: str | None, phase: str | None, model_name: str) -> Workload:
    """The workload of a task id's `:<workload>[/<phase>]`.

    Args:
        name: the workload's name; None takes the model's default.
        phase: keeps only this phase; None keeps all.
        model_name: the model that it is to run on.

    Raises:
        UnknownTask: if there is no such workload or phase.
    """
    if name is None:
        workload = default_workload(model_name)
    elif name in WORKLOADS:
        workload = WORKLOADS[name]
    else:
        raise UnknownTask(f"no workload {name!r}: there are {', '.join(WORKLOADS)}")
    return workload if phase is None else workload.only(phase)


def phase_names(workload: Workload, pattern: str) -> list[str]:
    """Names of the workload's phases that match a glob."""
    return [phase.name for phase in workload.phases if fnmatchcase(phase.name, pattern)]
