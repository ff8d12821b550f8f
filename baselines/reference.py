"""The agent `reference`: submits the plain PyTorch specification."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.catalog import OperatorInfo, Task
from fastkernels_gym.catalog.operators import operators
from fastkernels_gym.catalog.reference import reference_source

_FORWARD = '''

class {name}({base}):
    """The reference: parts of it dispatch as they do elsewhere."""

    def forward(self, *args, **kwargs):
        return self.forward_native(*args, **kwargs)
'''


class ReferenceAgent:
    """Submits the reference alone: its own computation is plain PyTorch on every device."""

    name = "reference"
    llm = None

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        base = native_name(task.operator)
        forward = _FORWARD.format(name=task.operator.class_name, base=base)
        return Proposal(native_module(task.operator) + forward)

    async def aclose(self) -> None:
        pass


def native_name(operator: OperatorInfo) -> str:
    """The name under which `native_module` defines an operator's class."""
    return f"Native{operator.class_name}"


def native_module(operator: OperatorInfo) -> str:
    """A module that defines an operator's reference, without its production implementation, as `native_name`.

    Operators that it derives from are imported: those of its own file would be replaced too if they were defined here.
    """
    tree = ast.parse(reference_source(operator))
    modules = {known.class_name: known.module for known in operators().values()}
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in modules and node.name != operator.class_name:
            body.append(ast.ImportFrom(modules[node.name], [ast.alias(node.name)], 0))
        else:
            body.append(node)
    kept = _needed(body, operator.class_name)
    renamed = _Rename(operator.class_name, native_name(operator)).visit(ast.Module(kept, []))
    return ast.unparse(ast.fix_missing_locations(renamed)) + "\n"


class _Rename(ast.NodeTransformer):
    """Gives a class another name, in its definition and wherever it is read."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if node.name == self._old:
            node.name = self._new
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == self._old:
            node.id = self._new
        return node


def _needed(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    """The statements that the definition of a name needs, directly or not, and imports from `__future__`."""
    pending, kept, seen = [name], set[int](), set[str]()
    while pending:
        wanted = pending.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        for index, node in enumerate(body):
            if index not in kept and wanted in _bound(node):
                kept.add(index)
                pending += [child.id for child in ast.walk(node) if isinstance(child, ast.Name)]
    return [node for index, node in enumerate(body) if index in kept or _is_future(node)]


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement at the top level of a module binds, those of its imports under `if` and `try` included."""
    bound: set[str] = set()
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            bound.add(child.id)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in child.names}
        elif isinstance(child, ast.ClassDef | ast.FunctionDef):
            bound.add(child.name)
    return bound


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
