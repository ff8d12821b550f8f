"""Kernels for reading: text made visible, highlighted, compared. The text is whatever a candidate's author wanted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import cache

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

LONGEST = 64 << 10  # characters shown of one text: what the policy lets a candidate have

# What is not drawn, or changes how its neighbours are drawn: controls, zero-width and bidirectional ones, surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# The lexer's time is quadratic in such a run: 64 KiB of it takes it 98 s.
_FLOOD = re.compile(r"\s{200}")
_CLASSES: tuple[tuple[str, _TokenType], ...] = (
    ("d", Name.Decorator),
    ("f", Name.Function),
    ("f", Name.Class),
    ("b", Name.Builtin),
    ("k", Operator.Word),
    ("k", Keyword),
    ("s", String),
    ("c", Comment),
    ("m", Number),
)
_MOST_LINES, _MOST_PAIRS = 2000, 20_000


def shown(text: str, limit: int = LONGEST) -> str:
    """Text in which every character is seen: hidden ones as escapes, what is too long cut and said so."""
    text = text.replace("\r\n", "\n")
    cut = len(text) - limit
    kept = _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text[:limit])
    return f"{kept}\n[... {cut} more characters]" if cut > 0 else kept


def highlight(text: str) -> list[str | int]:
    """Python text as runs: a class (`k` keyword, `s` string, ...; empty for none) and a length, by turns."""
    if _FLOOD.search(text):
        return ["", len(text)]
    runs: list[tuple[str, int]] = []
    for name, size in _tokens(text):
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + size)
        else:
            runs.append((name, size))
    return [part for run in runs for part in run]


def compare(old: str, new: str) -> list[list[tuple[str, int, int, int, int]]] | None:
    """The changed places of two texts, each with three lines around it, as difflib's opcodes over their lines.

    None for texts so long or so repetitive that a comparison would take long.
    """
    left, right = old.split("\n"), new.split("\n")
    if max(len(left), len(right)) > _MOST_LINES or _pairs(left, right) > _MOST_PAIRS:
        return None
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    return [list(group) for group in matcher.get_grouped_opcodes(3)]


def _pairs(left: Sequence[str], right: Sequence[str]) -> int:
    """Pairs of equal lines, which bound the work of a comparison."""
    counts = Counter(right)
    return sum(counts[line] for line in left)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    for _, kind, value in _lexer().get_tokens_unprocessed(text):
        yield _class(kind), len(value)


@cache
def _lexer() -> PythonLexer:
    return PythonLexer()


@cache
def _class(kind: _TokenType) -> str:
    return next((name for name, parent in _CLASSES if kind in parent), "")
