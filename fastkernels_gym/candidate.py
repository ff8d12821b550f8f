"""A candidate: source text that defines an operator's class. Parsed here, in trusted processes, and never run in them."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.results import Verdict

MAX_BYTES = 64 << 10
_FENCE = re.compile(r"^(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_LANGUAGES = ("", "py", "python", "python3")
_IMPORTS = ("torch", "triton", "numpy", "flash_attn", "fastkernels_gym")
_SUSPECT_MODULES = ("ctypes", "gc", "inspect", "multiprocessing", "os", "socket", "subprocess", "sys", "threading", "_thread")
_SUSPECT_CALLS = ("exec", "eval", "compile", "__import__", "setattr", "globals", "open")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parsed source.

    Args:
        text: the module's source.
        sha256: of its UTF-8 bytes, hexadecimal.
        classes: names of the classes at its top level, as often as they are defined.
        warnings: what a cheap scan finds worth a look; advice, never a defence.
    """

    text: str
    sha256: str
    classes: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def parse(cls, source: str | bytes) -> Candidate:
        """Parses a module's source without running it.

        Raises:
            CandidateFault: policy_reject for over 64 KiB, bytes that are not UTF-8, or null bytes; load_error for what
                Python cannot parse.
        """
        text = _decode(source)
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                tree = ast.parse(text, "candidate.py")
        except (SyntaxError, ValueError) as error:
            line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
            message = error.msg if isinstance(error, SyntaxError) else str(error)
            raise CandidateFault(Verdict.LOAD_ERROR, f"SyntaxError: {message}{line}") from None
        except (RecursionError, MemoryError):
            raise CandidateFault(Verdict.LOAD_ERROR, "SyntaxError: nested too deeply") from None
        classes = tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return cls(text, sha256, classes, tuple(sorted(set(_scan(tree)))))

    def replaces(self, target: str, siblings: Sequence[str]) -> tuple[str, ...]:
        """The classes that this candidate replaces: the target first, then siblings of the same file.

        Args:
            target: the operator's class name.
            siblings: class names of the other operators in its file.

        Raises:
            CandidateFault: interface_mismatch without the target's class, load_error with two of them.
        """
        if target not in self.classes:
            close = get_close_matches(target, self.classes, n=1)
            hint = f"; did you mean it by {close[0]!r}?" if close else ""
            raise CandidateFault(Verdict.INTERFACE_MISMATCH, f"the module defines no class {target!r}{hint}")
        names = (target, *(name for name in siblings if name in self.classes))
        for name in names:
            if self.classes.count(name) > 1:
                raise CandidateFault(Verdict.LOAD_ERROR, f"class {name!r} is defined twice")
        return names


def parse_reply(text: str) -> str | None:
    """The candidate in a reply: its last fenced Python module that parses, or the whole text if that is a module.

    A fence that is never closed holds no candidate: the reply was cut off.
    """
    blocks = list(_fenced(text))
    for block in reversed(blocks):
        if _is_module(block):
            return block
    return text if not blocks and _is_module(text) else None


def _fenced(text: str) -> Iterator[str]:
    """Contents of the closed Python fences, in order; a fence is closed by one as long, of the same character."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]) and not fence[2]:
            if opened[2].lower() in _LANGUAGES:
                yield text[opened.end() + 1 : fence.start()]
            opened = None


def _is_module(text: str) -> bool:
    """Whether the text parses and defines a class."""
    if "class " not in text:
        return False
    try:
        return bool(Candidate.parse(text).classes)
    except CandidateFault as fault:
        # Too large for the evaluator is still what the agent submitted, and its verdict says so.
        return fault.verdict is Verdict.POLICY_REJECT


def _decode(source: str | bytes) -> str:
    try:
        text = source.decode("utf-8") if isinstance(source, bytes) else source
        size = len(text.encode("utf-8"))
    except UnicodeError:
        raise CandidateFault(Verdict.POLICY_REJECT, "the source is not UTF-8") from None
    if size > MAX_BYTES:
        raise CandidateFault(Verdict.POLICY_REJECT, f"the source has {size} bytes, more than {MAX_BYTES}")
    if "\0" in text:
        raise CandidateFault(Verdict.POLICY_REJECT, "the source holds null bytes")
    return text


def _scan(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            root = name.partition(".")[0]
            if root in _SUSPECT_MODULES:
                yield f"imports {root}"
            elif root not in _IMPORTS and root not in sys.stdlib_module_names:
                yield f"imports {root}, which players may not have"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SUSPECT_CALLS:
            yield f"calls {node.func.id}"
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and _root(target) in ("torch", "triton"):
                    yield f"assigns to {ast.unparse(target)[:80]}"


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
