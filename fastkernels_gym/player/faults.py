"""What an exception of the candidate's means: the verdict that it earns, and what the agent is told of it."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator

from fastkernels_gym.player.protocol import MAX_DETAIL

CANDIDATE_FILE = "candidate.py"
_COMPILER_ERRORS = frozenset(
    {"CompilationError", "CompileTimeAssertionFailure", "BackendCompilerFailed", "InductorError", "PTXASError"}
)
# How load_inline, torch's NVRTC helper and NVRTC itself begin what they raise as a plain RuntimeError.
_COMPILER_MESSAGES = re.compile(r"Error building extension|Kernel compilation failed|nvrtc", re.IGNORECASE)
_MAX_CHAIN = 8
_MAX_ERRORS, _MAX_EXCERPT = 5, 4
# gcc `f.cpp:3:5: error: x`, nvcc and NVRTC `f.cu(3): error: x`, ptxas `error   : x`, the linkers.
_ERROR_LINE = re.compile(r"\b(?:fatal )?error(?: [A-Z]*\d+| *#[\w-]+)?\s*:|\bptxas fatal\b|\bundefined reference to\b")
_FOLDER = re.compile(r"(?:/[\w.+-]+)+/(?=[\w.+-]+[:(]\d)")


class InterfaceError(Exception):
    """The candidate's class cannot be built or called as the model does."""


def fault_kind(error: BaseException, stage: str) -> str:
    """The verdict that an exception earns, by where and what it was."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return "out_of_memory"
    if _compiler_failure(error) is not None:
        return "compile_error"
    if "AcceleratorError" in names or "CUDA error" in str(error):
        return "device_fault"
    if "CandidateImportError" in names:
        return "load_error"
    if isinstance(error, InterfaceError) or (stage == "load" and isinstance(error, TypeError)):
        return "interface_mismatch"
    return "runtime_error"


def describe(error: BaseException) -> str:
    """What the agent is told of an exception: its candidate's own frames, then type and message, bounded."""
    try:
        failure = _compiler_failure(error)
        shown = failure or getattr(error, "original", None) or error.__cause__ or error
        frames = [
            f for f in traceback.extract_tb(shown.__traceback__) if os.path.basename(f.filename) == CANDIDATE_FILE
        ]
        where = "".join(f"{CANDIDATE_FILE}:{f.lineno} in {f.name}: {f.line}\n" for f in frames[-5:])
        text = f"{type(shown).__name__}: {first_errors(str(shown)) if failure else shown}"
    except Exception:  # a hostile __str__ or frame
        where, text = "", f"{type(error).__name__} (its message cannot be read)"
    return where + (
        text if len(text) <= MAX_DETAIL else f"{text[: MAX_DETAIL // 2]}\n[...]\n{text[-MAX_DETAIL // 2 :]}"
    )


def first_errors(output: str) -> str:
    """A compiler's first errors, each with its excerpt of the source, without commands, warnings and folders.

    Args:
        output: all that a build printed.

    Returns:
        The first errors and how many followed; the output itself where no line of it is one.
    """
    lines = output.splitlines()
    starts = [index for index, line in enumerate(lines) if _ERROR_LINE.search(line)]
    kept: list[str] = []
    for start in starts[:_MAX_ERRORS]:
        kept.append(_FOLDER.sub("", lines[start]))
        for line in lines[start + 1 : start + 1 + _MAX_EXCERPT]:
            if not line.startswith((" ", "\t")) or _ERROR_LINE.search(line):
                break
            kept.append(line.rstrip())
    if len(starts) > _MAX_ERRORS:
        kept.append(f"[and {len(starts) - _MAX_ERRORS} more errors]")
    return "\n".join(kept) or output


def _compiler_failure(error: BaseException) -> BaseException | None:
    """The exception that carries a compiler's output, if it was a compiler that failed."""
    for link in _chain(error):
        if any(cls.__name__ in _COMPILER_ERRORS for cls in type(link).__mro__):
            return link
        if isinstance(link, RuntimeError) and _COMPILER_MESSAGES.search(str(link)):
            return link
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it; what a candidate raises may be a cycle."""
    link: object = error
    for _ in range(_MAX_CHAIN):
        if not isinstance(link, BaseException):
            return
        yield link
        link = getattr(link, "original", None) or link.__cause__
