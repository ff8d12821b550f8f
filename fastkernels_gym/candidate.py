"""A candidate: source text that defines an operator's class. Trusted processes parse it here and never run it."""

from __future__ import annotations

import ast
import hashlib
import re
import threading
import warnings as python_warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.results import Verdict
from fastkernels_gym.scan import scan

MAX_BYTES = 64 << 10

_FENCE = re.compile(r"^( {0,3})(`{3,}(?=[^`\n]*$)|~{3,})[ \t]*([^\s`]*)([^\n]*)$", re.MULTILINE)
_LANGUAGES = ("", "py", "python", "python3")
_CLASS_LINE = re.compile(r"^class[ \t]+\w", re.MULTILINE)
# CPython joins the parts of a dotted name one by one: an `import` of 30 000 parts takes 8 s and a gigabyte.
_DOTTED = re.compile(r"\b(?:\w++[\s\\]*+\.[\s\\]*+)++")
_MAX_DOTS = 256
_COMPOUND = (ast.If, ast.Try, ast.TryStar, ast.ExceptHandler, ast.With, ast.For, ast.While, ast.Match, ast.match_case)

_parsing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Parsed source.

    Args:
        text: the module's source.
        sha256: of its UTF-8 bytes, hexadecimal.
        classes: names of the classes at its top level, as often as they are defined; the branches of an `if` or a
            `try` count as one.
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
        tree = _parse(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(text, digest, tuple(_class_names(tree.body)), scan(tree))

    def replaces(self, target: str, siblings: Sequence[str]) -> tuple[str, ...]:
        """The classes that this candidate replaces: the target first, then siblings of the same file.

        Args:
            target: the operator's class name.
            siblings: class names of the other operators in its file.

        Raises:
            CandidateFault: interface_mismatch without the target's class, load_error with two of them.
        """
        if target not in self.classes:
            close = get_close_matches(target, [ascii(name)[1:-1][:80] for name in self.classes[:100]])
            hint = f"; did you mean it by {' or '.join(close)}?" if close else ""
            raise CandidateFault(Verdict.INTERFACE_MISMATCH, f"the module defines no class {target!r}{hint}")
        names = (target, *(name for name in siblings if name in self.classes))
        for name in names:
            if self.classes.count(name) > 1:
                raise CandidateFault(Verdict.LOAD_ERROR, f"class {name!r} is defined twice")
        return names


def parse_reply(text: str) -> str | None:
    """The candidate in a reply.

    The whole text where that is a module; else the last closed Python fence that holds one; else the last closed
    fence marked as Python that at least looks like one, so that the verdict says what Python cannot parse. A module
    defines a class. A fence that is never closed holds no candidate: the reply was cut off.

    Args:
        text: an LLM's reply in Markdown, or a file. Any text; takes time linear in its length.
    """
    blocks = list(_fenced(text))
    if _is_module(text, trusted=not blocks):
        return text
    for block, marked in reversed(blocks):
        if _is_module(block, trusted=marked):
            return block
    return next((block for block, marked in reversed(blocks) if marked and _CLASS_LINE.search(block)), None)


def _fenced(text: str) -> Iterator[tuple[str, bool]]:
    """The closed Python fences, in order: contents, and whether marked as Python rather than as nothing.

    A fence is closed by one of the same character that is at least as long.
    """
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        indent, marks, language, rest = fence.groups()
        if opened is None:
            opened = fence
        elif marks[0] == opened[2][0] and len(marks) >= len(opened[2]) and not (language or rest.strip()):
            if opened[3].lower() in _LANGUAGES:
                block = text[opened.end() + 1 : fence.start()]
                if opened[1]:
                    block = re.sub(f"^ {{1,{len(opened[1])}}}", "", block, flags=re.MULTILINE)
                yield block, bool(opened[3])
            opened = None


def _is_module(text: str, *, trusted: bool) -> bool:
    """Whether the text parses and defines a class.

    Args:
        text: any text.
        trusted: takes text that the policy rejects unread for a module if it looks like one: too large for the
            evaluator is still what the agent submitted, and its verdict says so.
    """
    if "class" not in text:
        return False
    try:
        return any(_class_names(_parse(_decode(text)).body))
    except CandidateFault as fault:
        return trusted and fault.verdict is Verdict.POLICY_REJECT and _CLASS_LINE.search(text) is not None


def _decode(source: str | bytes) -> str:
    try:
        if len(source) > MAX_BYTES:  # a character has at least a byte: nothing huge is ever encoded
            raise CandidateFault(Verdict.POLICY_REJECT, f"the source has more than {MAX_BYTES} bytes")
        text = source.decode("utf-8") if isinstance(source, bytes) else source
        size = len(text.encode("utf-8"))
    except UnicodeError:
        raise CandidateFault(Verdict.POLICY_REJECT, "the source is not UTF-8") from None
    if size > MAX_BYTES:
        raise CandidateFault(Verdict.POLICY_REJECT, f"the source has {size} bytes, more than {MAX_BYTES}")
    if "\0" in text:
        raise CandidateFault(Verdict.POLICY_REJECT, "the source holds null bytes")
    return text.removeprefix("\ufeff")


def _parse(text: str) -> ast.Module:
    if any(run[0].count(".") > _MAX_DOTS for run in _DOTTED.finditer(text)):
        raise CandidateFault(Verdict.LOAD_ERROR, f"SyntaxError: a dotted name of more than {_MAX_DOTS} parts")
    try:
        # Invalid escapes and the like warn; where warnings are errors they would turn into syntax errors. The filters
        # are the process's: threads that parse at once would restore each other's.
        with _parsing, python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            return ast.parse(text, "candidate.py")
    except SyntaxError as error:
        where = f" (line {error.lineno})" if error.lineno else ""
        message = f"{type(error).__name__}: {_one_line(error.msg)}{where}"
    except (RecursionError, MemoryError):
        message = "SyntaxError: nested too deeply"
    except ValueError as error:
        message = f"SyntaxError: {_one_line(str(error))}"
    raise CandidateFault(Verdict.LOAD_ERROR, message)


def _one_line(message: str) -> str:
    return " ".join(ascii(message)[1:-1].split())[:200]


def _class_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names of the classes that a module's statements bind."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, _COMPOUND):
            yield from dict.fromkeys(_nested_class_names(node))


def _nested_class_names(node: ast.AST) -> Iterator[str]:
    pending = [node]
    while pending:
        for child in ast.iter_child_nodes(pending.pop()):
            if isinstance(child, ast.ClassDef):
                yield child.name
            elif isinstance(child, _COMPOUND):
                pending.append(child)
