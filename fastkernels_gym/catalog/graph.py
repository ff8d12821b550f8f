"""Graph: which operators use which, from the import statements and class bodies of the baseline."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from fastkernels_gym.catalog.operators import OperatorInfo, find_operator, operator_of_class, operators
from fastkernels_gym.catalog.source import Source, load_source


@dataclass(frozen=True, slots=True)
class ImportGraph:
    """The operators that a model's source reaches.

    Args:
        root: id of the model's L4 operator.
        direct: for each operator reached, the operators that its class names: in its body, as a base, or through
            helpers that are no operators themselves.
    """

    root: str
    direct: Mapping[str, frozenset[str]] = field(hash=False)

    def parts(self, operator_id: str) -> tuple[OperatorInfo, ...]:
        """Operators that one is made of, directly or not, lowest level first."""
        return self._ordered(_closure(operator_id, self.direct))

    def users(self, operator_id: str) -> tuple[OperatorInfo, ...]:
        """Operators that one is part of, directly or not, lowest level first."""
        reverse: dict[str, set[str]] = {name: set() for name in self.direct}
        for user, parts in self.direct.items():
            for part in parts:
                reverse[part].add(user)
        return self._ordered(_closure(operator_id, reverse))

    def _ordered(self, ids: set[str]) -> tuple[OperatorInfo, ...]:
        """By level and, within one, users after their parts."""
        found = [operator for name, operator in operators().items() if name in ids]
        return tuple(sorted(found, key=lambda operator: (operator.level, len(_closure(operator.id, self.direct)))))


@cache
def import_graph(l4: str) -> ImportGraph:
    """The graph of all operators that an L4 operator reaches.

    Raises:
        UnknownTask: if there is no such operator.
    """
    direct: dict[str, frozenset[str]] = {}
    pending = [find_operator(l4)]
    while pending:
        operator = pending.pop()
        if operator.id in direct:
            continue
        parts = _direct_parts(operator)
        direct[operator.id] = frozenset(part.id for part in parts)
        pending.extend(parts)
    return ImportGraph(l4, direct)


@cache
def _direct_parts(operator: OperatorInfo) -> tuple[OperatorInfo, ...]:
    """Operators reached from a class's body without passing through another operator."""
    source = load_source(operator.module)
    parts: dict[str, OperatorInfo] = {}
    seen: set[tuple[str, str]] = {(operator.module, operator.class_name)}
    pending = list(_references(source, source.definitions[operator.class_name]))
    while pending:
        module, name = pending.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        part = operator_of_class(module, name)
        if part is not None:
            parts[part.id] = part
            continue
        home = load_source(module)
        if name in home.imports and home.imports[name].of_baseline:
            imported = home.imports[name]
            pending.append((imported.module, imported.name or name))
        for node in (home.definitions.get(name), *home.constants.get(name, ())):
            if node is not None:
                pending.extend(_references(home, node))
    return tuple(parts.values())


def _references(source: Source, node: ast.AST) -> Iterator[tuple[str, str]]:
    """The baseline definitions that a statement names, as (module, name)."""
    imports = source.imports | source.local_imports(node)
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            imported = imports.get(child.id)
            if imported is not None and imported.of_baseline and imported.name is not None:
                yield imported.module, imported.name
            elif imported is None:
                yield source.module, child.id
        elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            # `from ..L1 import linear` and then `linear.Linear(...)`
            imported = imports.get(child.value.id)
            if imported is not None and imported.of_baseline:
                module = imported.module if imported.name is None else f"{imported.module}.{imported.name}"
                if operator_of_class(module, child.attr) is not None:
                    yield module, child.attr


def _closure(start: str, edges: Mapping[str, frozenset[str]] | Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    pending = [start]
    while pending:
        for name in edges.get(pending.pop(), ()):
            if name not in reached:
                reached.add(name)
                pending.append(name)
    return reached - {start}
