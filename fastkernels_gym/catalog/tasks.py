"""Tasks: an operator of a model under a workload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fastkernels_gym.catalog.cases import Case
from fastkernels_gym.catalog.graph import import_graph
from fastkernels_gym.catalog.ids import TaskId
from fastkernels_gym.catalog.models import Model, bundled_models, load_model_config
from fastkernels_gym.catalog.observation import Observation, observe
from fastkernels_gym.catalog.operators import OperatorInfo, find_operator, operators, siblings
from fastkernels_gym.catalog.splits import Split, split_of
from fastkernels_gym.catalog.trace import Trace, trace
from fastkernels_gym.catalog.workloads import WORKLOADS, Workload, default_workload, load_workload, phase_names
from fastkernels_gym.errors import UnknownTask

_TOP_RUNG = 3


@dataclass(frozen=True, slots=True)
class Task:
    """What a candidate is asked to replace, and where it is measured.

    Args:
        id: canonical id: the model's default workload and a tensor-parallel size of 1 are left out.
        operator: the operator to replace.
        model: the model that it is part of.
        workload: the phases that count.
        tp: tensor-parallel size.
    """

    id: str
    operator: OperatorInfo
    model: Model
    workload: Workload
    tp: int = 1

    @property
    def level(self) -> int:
        return self.operator.level

    @property
    def traces(self) -> tuple[Trace, ...]:
        """One pass of each phase, in the workload's order."""
        return tuple(trace(self.model, phase, self.tp) for phase in self.workload.phases)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The distinct calls that the model makes of the operator."""
        return self.cases_of(self.operator.id)

    def cases_of(self, operator_id: str) -> tuple[Case, ...]:
        """The distinct calls of any operator of the model: phase by phase, by first call."""
        return tuple(case for found in self.traces for case in found.cases if case.operator == operator_id)

    @property
    def ladder(self) -> tuple[OperatorInfo, ...]:
        """Operators up to L3 that call this one in the model's pass, directly or not, lowest level first."""
        nested = {pair for found in self.traces for pair in found.nested}
        users = import_graph(self.model.l4).users(self.operator.id)
        return tuple(user for user in users if user.level <= _TOP_RUNG and (user.id, self.operator.id) in nested)

    @property
    def replaced_with(self) -> tuple[str, ...]:
        """Ids of the operators in the same file, which a candidate may define too."""
        return tuple(operator.id for operator in siblings(self.operator))

    def observation(self, *, show_baseline: bool = False) -> Observation:
        """What an agent is shown.

        Args:
            show_baseline: adds the production implementation, its kernels included, to the reference.
        """
        return observe(self.id, self.operator, self.cases, show_baseline=show_baseline)


def load_task(task_id: str) -> Task:
    """The task of an id.

    Raises:
        UnknownTask: if the id follows no grammar, or names an operator, workload or phase that does not exist,
            that the model cannot hold, or that its pass never calls.
        UnknownModel: if the model's config cannot be found or read.
        UnsupportedModel: if no L4 operator runs the model.
    """
    parsed = TaskId.parse(task_id)
    operator = find_operator(parsed.operator)
    model = load_model_config(parsed.model)
    workload = _workload(model, parsed)
    called = _called(model, workload, parsed.tp)
    if operator not in called:
        names = ", ".join(other.id for other in called)
        raise UnknownTask(f"{parsed.model} never calls {operator.id} in {_phases(workload)}: it calls {names}")
    return _task(operator, model, workload, parsed)


def list_tasks(pattern: str = "*", *, split: Split | None = None) -> list[str]:
    """Ids of the tasks that match a pattern, lowest level first within each model.

    Args:
        pattern: a task id in which the operator, a bundled model's name, the workload and the phase may be globs;
            without `@`, a glob of operators over all bundled models. `L2/parallel_linear` stands for all operators
            of that file.
        split: keeps only the tasks of this split; None keeps all.

    Raises:
        UnknownTask: if nothing matches.
        UnknownModel: if a model named without a glob cannot be found or read.
        UnsupportedModel: if no L4 operator runs a model named without a glob.
    """
    parsed = TaskId.parse(pattern if "@" in pattern else f"{pattern}@*")
    _check_operators(parsed.operator)
    matching: list[str] = []
    for name in _model_names(parsed.model):
        model = load_model_config(name)
        for variant in _variants(model, parsed):
            if variant != parsed and not _fits(model, variant):
                continue  # a glob stands for what there is
            workload = _workload(model, variant)
            for operator in _called(model, workload, parsed.tp):
                if _matches(operator, parsed.operator):
                    matching.append(_task(operator, model, workload, variant).id)
    kept = [task_id for task_id in matching if split is None or split_of(task_id) == split]
    if not kept:
        within = f" in the {split} split" if matching else ""
        raise UnknownTask(f"no task matches {pattern!r}{within}; there are tasks of {', '.join(bundled_models())}")
    return kept


def _task(operator: OperatorInfo, model: Model, workload: Workload, parsed: TaskId) -> Task:
    named = workload.name if parsed.phase or workload != default_workload(model.name) else None
    task_id = TaskId(operator.id, model.name, parsed.tp, named, parsed.phase)
    return Task(str(task_id), operator, model, workload, parsed.tp)


def _workload(model: Model, parsed: TaskId) -> Workload:
    workload = load_workload(parsed.workload, parsed.phase, model.name)
    limit = model.config.max_position_embeddings
    if workload.length > limit:
        fitting = ", ".join(name for name, other in WORKLOADS.items() if other.length <= limit) or "none"
        needed = f"{_phases(workload)} needs {workload.length}"
        raise UnknownTask(f"{model.name} holds {limit} positions, {needed}; workloads that fit: {fitting}")
    return workload


def _fits(model: Model, parsed: TaskId) -> bool:
    workload = load_workload(parsed.workload, parsed.phase, model.name)
    return workload.length <= int(model.config.max_position_embeddings)


def _called(model: Model, workload: Workload, tp: int) -> list[OperatorInfo]:
    """The operators that a pass of the workload calls, lowest level first."""
    called = {case.operator for phase in workload.phases for case in trace(model, phase, tp).cases}
    return [operator for name, operator in operators().items() if name in called]


def _variants(model: Model, parsed: TaskId) -> Iterator[TaskId]:
    """The ids without globs that a pattern's workload and phase stand for, on one model."""
    if parsed.workload is None:
        yield TaskId(parsed.operator, model.name, parsed.tp)
        return
    names = [name for name in WORKLOADS if fnmatchcase(name, parsed.workload)] or [parsed.workload]
    for name in names:
        if parsed.phase is None:
            yield TaskId(parsed.operator, model.name, parsed.tp, name)
            continue
        workload = load_workload(name, None, model.name)
        for phase in phase_names(workload, parsed.phase) or [parsed.phase]:
            yield TaskId(parsed.operator, model.name, parsed.tp, name, phase)


def _model_names(pattern: str) -> list[str]:
    if pattern in bundled_models() or Path(pattern).exists() or not set("*?[") & set(pattern):
        return [pattern]
    names = [name for name in bundled_models() if fnmatchcase(name, pattern)]
    if not names:
        raise UnknownTask(f"no bundled model matches {pattern!r}: there are {', '.join(bundled_models())}")
    return names


def _matches(operator: OperatorInfo, pattern: str) -> bool:
    return fnmatchcase(operator.id, pattern) or fnmatchcase(operator.family, pattern)


def _check_operators(pattern: str) -> None:
    if not any(_matches(operator, pattern) for operator in operators().values()):
        find_operator(pattern)


def _phases(workload: Workload) -> str:
    return f"{workload.name}/{'+'.join(phase.name for phase in workload.phases)}"
