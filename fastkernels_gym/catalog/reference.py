"""References: an operator's source as an agent may read it, cut out of its module."""

from __future__ import annotations

import ast
import textwrap
from functools import cache

from fastkernels_gym.catalog.operators import BASELINE, OperatorInfo, operator_of_class
from fastkernels_gym.catalog.source import Import, Source, load_source, names_in

_PRODUCTION = "forward_cuda"
_ROOT = "operator"  # the module of the base class of all operators, which is imported and not copied


@cache
def reference_source(operator: OperatorInfo, *, show_baseline: bool = False) -> str:
    """A module that defines an operator with its reference implementation.

    It holds the class with its constructor, loaders and `forward_native`, the operators that it derives from, and
    the constants, helpers and imports that these need. Signatures of imported baseline names follow their imports
    in comments. The production implementation, and whatever only that needs, is left out.

    Args:
        operator: the operator.
        show_baseline: keeps the production implementation.
    """
    cutting = _Cutting(show_baseline)
    cutting.add(load_source(operator.module), operator.class_name)
    return cutting.text()


class _Cutting:
    """Collects the statements that a definition needs, in the order of their modules."""

    def __init__(self, show_baseline: bool) -> None:
        self._show_baseline = show_baseline
        self._seen: set[tuple[str, str]] = set()
        self._imports: dict[str, Import] = {}
        self._chosen: dict[str, dict[int, str]] = {}

    def add(self, source: Source, name: str) -> None:
        """Adds what a name stands for in a module, and all that it needs in turn."""
        if (source.module, name) in self._seen:
            return
        self._seen.add((source.module, name))
        if name in source.definitions:
            node = source.definitions[name]
            dropped = self._dropped(node)
            self._choose(source, node, dropped)
            kept = _without(node, dropped)
            if isinstance(node, ast.ClassDef):
                self._add_bases(source, node)
            for needed in sorted(set().union(*(names_in(part) for part in kept))):
                self.add(source, needed)
        for statement in source.constants.get(name, ()):
            self._choose(source, statement, ())
            for needed in sorted(names_in(statement)):
                self.add(source, needed)
        if name in source.imports and source.imports[name].module != "__future__":
            self._imports.setdefault(name, source.imports[name])

    def text(self) -> str:
        """The module."""
        wanted = [item for name, item in self._imports.items() if self._is_import(name)]
        wanted.sort(key=lambda item: (item.name is not None, item.module, item.alias))
        at_run_time = [item for item in wanted if not item.typing_only]
        parts = ["from __future__ import annotations"]
        if len(at_run_time) < len(wanted):
            parts.append("from typing import TYPE_CHECKING")
        parts.append("\n".join(item.statement() for item in at_run_time if not item.of_baseline))
        parts += [_described(item) for item in at_run_time if item.of_baseline]
        for item in wanted:
            if item.typing_only:
                described = _described(item) if item.of_baseline else item.statement()
                parts.append("if TYPE_CHECKING:\n" + textwrap.indent(described, "    "))
        for chosen in reversed(self._chosen.values()):  # a base's module was reached after its subclass's
            parts += [chosen[line] for line in sorted(chosen)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _is_import(self, name: str) -> bool:
        return not any(
            name in load_source(module).definitions or name in load_source(module).constants
            for module, seen in self._seen
            if seen == name
        )

    def _add_bases(self, source: Source, node: ast.ClassDef) -> None:
        """Copies baseline classes that the class derives from: their methods are part of its specification."""
        for base in source.bases(node):
            found = source.find_class(base)
            if found is not None and found[0].module != f"{BASELINE}.{_ROOT}":
                home, definition = found
                self.add(home, definition.name)

    def _choose(self, source: Source, node: ast.stmt, dropped: tuple[ast.stmt, ...]) -> None:
        text = source.text(node, without=dropped)
        self._chosen.setdefault(source.module, {})[node.lineno] = text

    def _dropped(self, node: ast.stmt) -> tuple[ast.stmt, ...]:
        """The methods of a class that only its production implementation needs, that one included."""
        if self._show_baseline or not isinstance(node, ast.ClassDef):
            return ()
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        production = _reached({_PRODUCTION} & methods.keys(), methods)
        others = [part for part in node.body if part not in methods.values()]
        kept = {name for name in methods if name not in production or not (name == _PRODUCTION or _private(name))}
        kept |= set().union(*(_attributes(part) for part in others)) & methods.keys()
        needed = _reached(kept - {_PRODUCTION}, methods) - {_PRODUCTION}
        return tuple(method for name, method in methods.items() if name not in needed)


def _reached(names: set[str], methods: dict[str, ast.FunctionDef]) -> set[str]:
    """The methods that some methods refer to, directly or not, those included."""
    reached: set[str] = set()
    pending = sorted(names)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(_attributes(methods[name]) & methods.keys())
    return reached


def _described(item: Import) -> str:
    """An import with the signature of what it imports in comments below."""
    lines = [item.statement()]
    source = load_source(item.module)
    node = source.definitions.get(item.name or "")
    if isinstance(node, ast.ClassDef):
        lines += [f"# {line}" for line in _class_lines(source, node)]
    elif node is not None:
        lines.append(f"# {_signature(node)}" + _doc(node))
        for returned in _types_of(source, node):
            lines += [f"# {line}" for line in _class_lines(source, returned)]
    return "\n".join(lines)


def _types_of(source: Source, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.ClassDef]:
    """Classes of the same module that a function returns, and those of their fields."""
    found: dict[str, ast.ClassDef] = {}
    pending = sorted(names_in(node.returns)) if node.returns is not None else []
    while pending:
        name = pending.pop(0)
        definition = source.definitions.get(name)
        if not isinstance(definition, ast.ClassDef) or operator_of_class(source.module, name) is not None:
            continue
        if name not in found:
            found[name] = definition
            fields = [part.annotation for part in definition.body if isinstance(part, ast.AnnAssign)]
            pending.extend(sorted(names_in(*fields)))
    return list(found.values())


def _class_lines(source: Source, node: ast.ClassDef) -> list[str]:
    lines = [f"class {node.name}:{_doc(node)}"]
    if operator_of_class(source.module, node.name) is None:
        lines += [f"    {ast.unparse(part)}" for part in node.body if isinstance(part, ast.AnnAssign)]
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
        shown = [part for part in methods if not part.name.startswith("forward")]  # the operators' base dispatches
        return lines + [f"    {_member(part)}{_doc(part)}" for part in shown]
    for public, method in (("__init__", "__init__"), ("forward", "forward_native")):
        found = source.find_method(node.name, method) or source.find_method(node.name, public)
        if found is None:
            continue
        lines.append(f"    {_signature(found, public)}")
        aliases = sorted(names_in(*_annotations(found)) & source.constants.keys())
        lines += [f"    {source.text(statement)}" for name in aliases for statement in source.constants[name]]
    return lines


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str | None = None) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"def {name or node.name}({ast.unparse(node.args)}){returns}"


def _member(node: ast.FunctionDef) -> str:
    """A public method's signature, or a property's annotation."""
    if node.returns is not None and any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return f"{node.name}: {ast.unparse(node.returns)}"
    return _signature(node)


def _annotations(node: ast.FunctionDef) -> list[ast.expr]:
    found = [node.returns, *(argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs))]
    return [annotation for annotation in found if annotation is not None]


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    first = (ast.get_docstring(node) or "").partition("\n")[0]
    return f"  {first}" if first else ""


def _without(node: ast.stmt, dropped: tuple[ast.stmt, ...]) -> list[ast.AST]:
    """The parts of a definition that remain, its decorators, bases and arguments included."""
    return [child for child in ast.iter_child_nodes(node) if child not in dropped]


def _attributes(node: ast.AST) -> set[str]:
    return {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")
