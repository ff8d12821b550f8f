"""The import overlay: the candidate's class stands where the operator's was, for every importer, by its own import.

When the operator's module is first imported by anybody, three modules are made of two files. The pristine baseline is
what the candidate sees when it imports from the operator's own file, the replaced classes barred. The candidate is
executed next, as a file of its own. The final module is the baseline's source once more, each replaced class's definition
turned into a reference to the candidate's, so that subclasses and users in the same file get it too.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

CANDIDATE_MODULE = "fastkernels_gym_candidate"
_HOLDER = "__candidate__"


class CandidateImportError(Exception):
    """The candidate raised while it was imported; the original exception is kept."""

    def __init__(self, original: BaseException) -> None:
        super().__init__(f"{type(original).__name__}: {original}")
        self.original = original


def install(target: str, class_names: Sequence[str], candidate: Path) -> None:
    """Puts the overlay in place; must come before any baseline module is imported.

    Args:
        target: the dotted name of the operator's module.
        class_names: the classes of it that the candidate replaces.
        candidate: the candidate's file.

    Raises:
        RuntimeError: if the target has been imported already.
    """
    if target in sys.modules:
        raise RuntimeError(f"{target} is imported already")
    sys.meta_path.insert(0, _Finder(target, tuple(class_names), candidate))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, target: str, class_names: tuple[str, ...], candidate: Path) -> None:
        self._target, self._class_names, self._candidate = target, class_names, candidate

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._target:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(Path(spec.origin), self._class_names, self._candidate)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, origin: Path, class_names: tuple[str, ...], candidate: Path) -> None:
        self._origin, self._class_names, self._candidate = origin, class_names, candidate

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(self._origin.read_text(encoding="utf-8"), str(self._origin))
        module.__dict__[_HOLDER] = self._load_candidate(module, tree)
        exec(compile(_substitute(tree, self._class_names), str(self._origin), "exec"), module.__dict__)

    def _load_candidate(self, module: ModuleType, tree: ast.Module) -> ModuleType:
        """Executes the candidate while the target's name stands for the pristine baseline, replaced classes barred."""
        name = module.__name__
        view = _BarredModule(name, self._class_names)
        view.__dict__.update(__package__=module.__package__, __spec__=module.__spec__, __file__=str(self._origin))
        sys.modules[name] = view
        exec(compile(tree, str(self._origin), "exec"), view.__dict__)
        for barred in self._class_names:
            view.__dict__.pop(barred, None)
        spec = importlib.util.spec_from_file_location(CANDIDATE_MODULE, self._candidate)
        assert spec is not None and spec.loader is not None
        candidate = importlib.util.module_from_spec(spec)
        candidate.__package__ = module.__package__
        sys.modules[CANDIDATE_MODULE] = candidate
        try:
            # Compiled here: the file's own loader would insist on its __package__.
            exec(compile(self._candidate.read_text("utf-8"), str(self._candidate), "exec"), candidate.__dict__)
            self._check(candidate)
        except BaseException as error:  # whatever hostile code raises, exits included, is a load error
            raise CandidateImportError(error) from error
        finally:
            sys.modules[name] = module
        return candidate

    def _check(self, candidate: ModuleType) -> None:
        from torch import nn

        for name in self._class_names:
            found = getattr(candidate, name, None)
            if not (isinstance(found, type) and issubclass(found, nn.Module)):
                raise TypeError(f"{name} is {found!r}, not a subclass of torch.nn.Module")


class _BarredModule(ModuleType):
    """The operator's own module as its candidate sees it."""

    def __init__(self, name: str, barred: tuple[str, ...]) -> None:
        super().__init__(name)
        self.__dict__["_barred"] = barred

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_barred", ()):
            raise ImportError(f"{name} is the operator being replaced: define it, do not import it")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _substitute(tree: ast.Module, class_names: Sequence[str]) -> ast.Module:
    """Turns `class X: ...` into `X = __candidate__.X` for each replaced class."""
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in class_names:
            replacement = ast.parse(f"{node.name} = {_HOLDER}.{node.name}").body[0]
            body.append(ast.copy_location(ast.fix_missing_locations(replacement), node))
        else:
            body.append(node)
    return ast.Module(body, tree.type_ignores)
