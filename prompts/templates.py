"""Templates: the packaged ones, any of which a folder may replace, and what may go wrong in one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, TemplateError, TemplateSyntaxError, meta

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "system.j2": (),
    "task.j2": ("task", "reference", "calls", "device", "example_operator", "example"),
    "feedback.j2": ("evaluation", "error", "turns_left"),
    "refine.j2": ("best", "last", "turns", "turns_left"),
    "mutation.j2": ("parent", "draw", "turns_left"),
    "cross.j2": ("first", "second", "turns_left"),
}
"""What each message is made of. A part (`_*.j2`) sees what the template that includes it does."""
_OF_PARTS = tuple(sorted({"call", "loop", "turn"}.union(*VARIABLES.values())))


class BadTemplate(ValueError):
    """A template that cannot be read, or names what there is not; the message is one line."""


class Templates:
    """The texts that prompts are made of.

    Args:
        folder: its `*.j2` stand in for the packaged ones of the same names; further parts are welcome. None: no folder.

    Attributes:
        version: a hash of all texts, 12 hexadecimal digits: runs whose prompts differ are different runs.

    Raises:
        BadTemplate: if the folder cannot be read, or a template is none, has a name that means nothing, or uses a
            variable that there is not.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own = {} if folder is None else _read_folder(folder)
        self._environment = _environment(FunctionLoader(self._load))
        self.version = self._hash()
        for name in self._own:
            self._check(name)

    def filters(self, **filters: Any) -> None:
        """Makes functions known to the templates."""
        self._environment.filters.update(filters)

    def render(self, name: str, **values: Any) -> str:
        """A template filled in, without blanks around it.

        Raises:
            BadTemplate: if it uses what there is not.
        """
        try:
            return self._environment.get_template(name).render(**values).strip() + "\n"
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            if not self._own:  # a bug of ours
                raise
            raise BadTemplate(f"template {_culprit(error) or name}: {' '.join(str(error).split())}") from error

    def text(self, name: str) -> str:
        """A template as it was written.

        Raises:
            KeyError: if there is none.
        """
        return self._own[name] if name in self._own else packaged()[name]

    def _load(self, name: str) -> tuple[str, str, None] | None:
        try:
            return self.text(name), name, None
        except KeyError:
            return None

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name in sorted({*packaged(), *self._own}):
            text = self.text(name)
            digest.update(f"{name}\0{len(text)}\0{text}".encode())
        return digest.hexdigest()[:12]

    def _check(self, name: str) -> None:
        """What can be seen without values: syntax, parts and variables."""
        if name not in packaged() and not name.startswith("_"):
            raise BadTemplate(f"no template {name}: there are {', '.join(packaged())}, and parts of your own, _NAME.j2")
        if name.startswith("example_"):
            return
        try:
            tree = self._environment.parse(self._own[name])
            for part in meta.find_referenced_templates(tree):
                if part is not None:
                    self.text(part)
        except TemplateSyntaxError as error:
            raise BadTemplate(f"template {name}, line {error.lineno}: {error.message}") from error
        except KeyError as error:
            raise BadTemplate(f"template {name} includes {error.args[0]}, which there is not") from error
        known = VARIABLES.get(name, _OF_PARTS)
        unknown = sorted(meta.find_undeclared_variables(tree) - set(known))
        if unknown:
            raise BadTemplate(f"template {name}: no variable {unknown[0]!r}; there are {', '.join(known) or 'none'}")


@cache
def packaged() -> dict[str, str]:
    """The package's own templates by name."""
    found = [item for item in files(__package__).iterdir() if item.name.endswith(".j2")]
    return {item.name: item.read_text(encoding="utf-8") for item in sorted(found, key=lambda item: item.name)}


def _environment(loader: FunctionLoader) -> Environment:
    # Plain text for an LLM, not HTML; what others wrote goes through `fenced`.
    return Environment(loader=loader, undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


def _read_folder(folder: Path) -> dict[str, str]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".j2")
        found = {path.name: path.read_bytes().decode() for path in paths}
    except OSError as error:
        raise BadTemplate(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadTemplate(f"a template in {folder} is not UTF-8: {error}") from error
    if not found:
        raise BadTemplate(f"{folder} holds no templates: there are {', '.join(packaged())}")
    return found


def _culprit(error: BaseException) -> str | None:
    """The template, and its line, in which an error arose."""
    found, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        found = f"{name}, line {trace.tb_lineno}" if name.endswith(".j2") else found
        trace = trace.tb_next
    return found
