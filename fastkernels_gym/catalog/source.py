"""Sources: what a baseline module defines and imports, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastkernels_gym.catalog.operators import BASELINE

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Import:
    """A name that an import statement binds.

    Args:
        module: the dotted module, absolute.
        name: what is taken from it; None for `import module`.
        alias: the name that it is bound to.
        typing_only: whether it stands under `if TYPE_CHECKING`.
    """

    module: str
    name: str | None
    alias: str
    typing_only: bool = False

    def statement(self) -> str:
        """The import statement that binds it, absolute."""
        if self.name is None:
            suffix = "" if self.alias == self.module.partition(".")[0] else f" as {self.alias}"
            return f"import {self.module}{suffix}"
        return f"from {self.module} import {self.name}" + ("" if self.alias == self.name else f" as {self.alias}")

    @property
    def of_baseline(self) -> bool:
        return self.module == BASELINE or self.module.startswith(f"{BASELINE}.")


@dataclass(frozen=True, slots=True)
class Source:
    """A module's statements by the names that they bind at its top level.

    Args:
        module: its dotted name.
        lines: its text.
        definitions: classes and functions.
        constants: every other statement that binds names, under each of its names; a name may have several.
        imports: imported names, those under `try` and `if` included.
    """

    module: str
    lines: tuple[str, ...]
    definitions: dict[str, Definition]
    constants: dict[str, tuple[ast.stmt, ...]]
    imports: dict[str, Import]

    def text(self, node: ast.stmt, *, without: tuple[ast.stmt, ...] = ()) -> str:
        """A statement's text with its decorators and the comments within, less some of the statements inside it."""
        dropped: set[int] = set()
        for inner in without:
            first = _first_line(inner)
            while self.lines[first - 2].lstrip().startswith("#"):
                first -= 1
            dropped.update(range(first, (inner.end_lineno or inner.lineno) + 1))
        kept: list[str] = []
        for number in range(_first_line(node), (node.end_lineno or node.lineno) + 1):
            line = self.lines[number - 1]
            if number in dropped or (not line and kept and not kept[-1]):
                continue
            kept.append(line)
        return "\n".join(kept).rstrip()

    def local_imports(self, node: ast.AST) -> dict[str, Import]:
        """Names that import statements inside a definition bind."""
        package = self.module.rpartition(".")[0]
        statements = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
        return {item.alias: item for statement in statements for item in _imports(statement, package)}

    def bases(self, definition: ast.ClassDef) -> list[str]:
        """Names of a class's bases as the module knows them."""
        return [base.id for base in definition.bases if isinstance(base, ast.Name)]

    def find_class(self, name: str) -> tuple[Source, ast.ClassDef] | None:
        """The class that a name stands for here, in whichever baseline module defines it."""
        definition = self.definitions.get(name)
        if isinstance(definition, ast.ClassDef):
            return self, definition
        imported = self.imports.get(name)
        if imported is None or imported.name is None or not imported.of_baseline:
            return None
        return load_source(imported.module).find_class(imported.name)

    def find_method(self, class_name: str, method: str) -> ast.FunctionDef | None:
        """A class's method, its own or inherited from a baseline class."""
        found = self.find_class(class_name)
        if found is None:
            return None
        source, definition = found
        for node in definition.body:
            if isinstance(node, ast.FunctionDef) and node.name == method:
                return node
        inherited = (source.find_method(base, method) for base in source.bases(definition))
        return next((node for node in inherited if node is not None), None)


def names_in(*nodes: ast.AST) -> set[str]:
    """Every name that is read anywhere in some statements, annotations included."""
    return {node.id for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name)}


@cache
def load_source(module: str) -> Source:
    """The source of a baseline module, by its dotted name."""
    path = _path(module)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    definitions: dict[str, Definition] = {}
    constants: dict[str, tuple[ast.stmt, ...]] = {}
    imports: dict[str, Import] = {}
    for node in tree.body:
        found = list(_imports(node, package))
        imports.update({item.alias: item for item in found})
        if isinstance(node, Definition):
            definitions[node.name] = node
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            for name in _bound_names(node) | {item.alias for item in found if not item.typing_only}:
                constants[name] = (*constants.get(name, ()), node)
    return Source(module, tuple(text.splitlines()), definitions, constants, imports)


def _path(module: str) -> Path:
    relative = module.removeprefix(BASELINE).strip(".").replace(".", "/")
    folder = Path(str(files(BASELINE)))
    file = folder / f"{relative}.py"
    return file if relative and file.exists() else folder / relative / "__init__.py"


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, Definition) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _imports(node: ast.AST, package: str, typing_only: bool = False) -> Iterator[Import]:
    """The imports of a statement outside functions and classes, those under `try` and `if` included."""
    if isinstance(node, ast.Import):
        for item in node.names:
            yield Import(item.name, None, item.asname or item.name.partition(".")[0], typing_only)
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(node, package)
        for item in node.names:
            yield Import(module, item.name, item.asname or item.name, typing_only)
    elif not isinstance(node, Definition):
        guard = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, package, typing_only or guard)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *(node.module.split(".") if node.module else [])])


def _bound_names(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds: targets, and definitions and imports under `if` and `try`."""
    bound: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            bound.add(child.id)
        elif isinstance(child, Definition):
            bound.add(child.name)
    return bound - {"__all__"}
