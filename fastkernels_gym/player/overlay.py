"""The import overlay: the candidate's class stands where the operator's was, for every importer, by its own import.

When the operator's module is first imported by anybody, three modules are made of two files. The pristine baseline is
what the candidate sees when it imports from the operator's own file, the replaced classes barred. The candidate is
executed next, as a module of its own beside the operator's, so that its relative imports and `inspect.getsource` work.
The final module is the baseline's source once more, each replaced class's definition turned into an import of the
candidate's, so that subclasses, registries and users in the same file get it too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

CANDIDATE_NAME = "fastkernels_gym_candidate"
"""The candidate module's name within the package of the operator's module."""


class CandidateImportError(Exception):
    """The candidate could not be imported.

    Attributes:
        original: what it raised, or what is wrong with its classes.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__("the candidate could not be imported")  # the original's message may itself raise
        self.original = original


class Overlay(MetaPathFinder):
    """An overlay in place. It stays: an import that failed fails again rather than giving the baseline."""

    def __init__(self, target: str, class_names: Sequence[str], candidate: Path) -> None:
        self._target, self._class_names, self._candidate = target, tuple(class_names), candidate
        self._loaded: _Loader | None = None

    def replaced(self) -> tuple[type, ...]:
        """The candidate's classes that were put in place, in the order asked for; none before the first import."""
        return self._loaded.classes if self._loaded else ()

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._target:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
        spec.loader = self._loaded = _Loader(name, spec.origin, self._class_names, self._candidate)
        return spec


def install(target: str, class_names: Sequence[str], candidate: Path) -> Overlay:
    """Puts an overlay in place; must come before the operator's module is imported.

    Args:
        target: the dotted name of the operator's module.
        class_names: the classes of it that the candidate replaces.
        candidate: the candidate's file.

    Returns:
        The overlay. Importing `target` raises `CandidateImportError` for whatever the candidate does wrong.

    Raises:
        RuntimeError: if the target has been imported already.
    """
    if target in sys.modules:
        raise RuntimeError(f"{target} is imported already")
    overlay = Overlay(target, class_names, candidate)
    sys.meta_path.insert(0, overlay)
    return overlay


class _Loader(SourceFileLoader):
    """Loads the operator's module with the candidate's classes in it."""

    def __init__(self, name: str, path: str, class_names: tuple[str, ...], candidate: Path) -> None:
        super().__init__(name, path)
        self._class_names, self._candidate = class_names, candidate
        self.classes: tuple[type, ...] = ()

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(Path(self.path).read_text(encoding="utf-8"), self.path)
        view = _View(module, self._class_names)
        package, _, stem = module.__name__.rpartition(".")
        parent = sys.modules[package]
        sys.modules[module.__name__] = view
        setattr(parent, stem, view)
        try:
            _execute(tree, self.path, view)
            for name in self._class_names:
                del view.__dict__[name]
            view.__dict__["__all__"] = [name for name in view.__dict__.get("__all__", ()) if name in view.__dict__]
            classes = self._load_candidate(view)
        finally:
            sys.modules[module.__name__] = module
            vars(parent).pop(stem, None)  # the import system sets it once the import has succeeded
        # Whatever the candidate took from the view is its own class's user as well.
        view.__dict__.update(classes)
        _execute(_substitute(tree, self._class_names, f"{package}.{CANDIDATE_NAME}"), self.path, module)
        self.classes = tuple(classes.values())

    def _load_candidate(self, view: ModuleType) -> dict[str, type]:
        """Executes the candidate and returns its classes, by name."""
        package = view.__name__.rpartition(".")[0]
        spec = spec_from_file_location(f"{package}.{CANDIDATE_NAME}", self._candidate)
        assert spec is not None
        candidate = sys.modules[spec.name] = module_from_spec(spec)
        before = set(sys.modules)
        try:
            # Not by its loader: that would leave, and trust, bytecode beside the file.
            _execute(self._candidate.read_text(encoding="utf-8"), str(self._candidate), candidate)
            _refuse_users(view, before)
            return {name: _operator_class(candidate, name) for name in self._class_names}
        except BaseException as error:  # whatever hostile code raises, exits included, is a load error
            sys.modules.pop(spec.name, None)
            raise CandidateImportError(error) from error


class _View(ModuleType):
    """The operator's own module as its candidate sees it: pristine, the replaced classes barred."""

    def __init__(self, module: ModuleType, barred: tuple[str, ...]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(module.__dict__)
        # A spec of its own: the module's says "being imported", and errors would speak of circular imports.
        self.__spec__ = ModuleSpec(module.__name__, None, origin=module.__file__)
        self._barred = barred

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_barred", ()):
            raise ImportError(f"{name} is the operator being replaced; define it, do not import it")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _execute(source: ast.Module | str, path: str, module: ModuleType) -> None:
    # dont_inherit: else this file's `from __future__ import annotations` would hold for the source too.
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)


def _substitute(tree: ast.Module, class_names: Sequence[str], candidate: str) -> ast.Module:
    """Turns `class X: ...` into `from <candidate> import X` for each replaced class."""
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in class_names:
            replacement = ast.ImportFrom(candidate, [ast.alias(node.name)], 0)
            body.append(ast.fix_missing_locations(ast.copy_location(replacement, node)))
        else:
            body.append(node)
    return ast.Module(body, tree.type_ignores)


def _operator_class(candidate: ModuleType, name: str) -> type:
    from torch import nn

    found = candidate.__dict__.get(name)
    if found is None:
        raise TypeError(f"the module leaves no class {name!r} behind")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise TypeError(f"{name} is not a class derived from torch.nn.Module")
    return found


def _refuse_users(view: ModuleType, before: set[str]) -> None:
    """Refuses baseline modules that the candidate made import the view: they would keep the operator as it was."""
    baseline = view.__name__.rsplit(".", 2)[0] + "."
    for name, module in list(sys.modules.items()):
        if name.startswith(baseline) and name not in before and _mentions(module, view.__name__):
            raise ImportError(f"{name} is built on the operator being replaced; it cannot be a part of it")


def _mentions(module: ModuleType, name: str) -> bool:
    """Whether any of a module's names stands for the module `name`, or for a class or function of it."""
    values = list(vars(module).values())
    return any(name in (getattr(value, "__module__", None), getattr(value, "__name__", None)) for value in values)
