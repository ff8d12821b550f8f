"""Operators: what there is to replace, found in the files of `tasks/baseline` without importing them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastkernels_gym.errors import UnknownTask

BASELINE = "fastkernels_gym.tasks.baseline"
LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """An operator and where it is defined.

    Args:
        id: `L1/rms_norm` where its file has one operator, else `L2/parallel_linear.QKVParallelLinear`.
        level: 1 to 4.
        module: dotted name of the module that defines it.
        class_name: the class's name there.
        path: the module's file.
    """

    id: str
    level: int
    module: str
    class_name: str
    path: str

    @property
    def family(self) -> str:
        """The file's id, shared by all operators in it: `L2/parallel_linear`."""
        return self.id.partition(".")[0]


@cache
def operators() -> dict[str, OperatorInfo]:
    """All operators by id, lowest level first."""
    found: dict[str, OperatorInfo] = {}
    for level in LEVELS:
        for path in sorted(_baseline_folder().joinpath(f"L{level}").glob("*.py")):
            if path.name == "__init__.py":
                continue
            names = _operator_classes(path)
            for name in names:
                family = f"L{level}/{path.stem}"
                operator_id = family if len(names) == 1 else f"{family}.{name}"
                module = f"{BASELINE}.L{level}.{path.stem}"
                found[operator_id] = OperatorInfo(operator_id, level, module, name, str(path))
    return found


def find_operator(operator_id: str) -> OperatorInfo:
    """The operator of that id.

    Raises:
        UnknownTask: if there is none; the message names the closest ones.
    """
    known = operators()
    if operator_id in known:
        return known[operator_id]
    members = [name for name, operator in known.items() if operator.family == operator_id]
    if members:
        raise UnknownTask(f"{operator_id!r} has several operators: name one of {', '.join(members)}")
    close = get_close_matches(operator_id, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UnknownTask(f"no operator {operator_id!r}: {hint}there are {', '.join(known)}")


@cache
def operator_of_class(module: str, class_name: str) -> OperatorInfo | None:
    """The operator that a class is, by the module that defines it; None for any other class."""
    for operator in operators().values():
        if (operator.module, operator.class_name) == (module, class_name):
            return operator
    return None


def model_operators() -> dict[str, OperatorInfo]:
    """The L4 operators by class name, which is the architecture's name in a config."""
    return {operator.class_name: operator for operator in operators().values() if operator.level == LEVELS[-1]}


def siblings(operator: OperatorInfo) -> tuple[OperatorInfo, ...]:
    """The other operators of its file."""
    return tuple(other for other in operators().values() if other.family == operator.family and other != operator)


def _baseline_folder() -> Path:
    return Path(str(files(BASELINE)))


def _operator_classes(path: Path) -> list[str]:
    """The classes that a file both defines and lists in `__all__`, in the order of their definition."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            exported = set(ast.literal_eval(node.value))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name in exported]
