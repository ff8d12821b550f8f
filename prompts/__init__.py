"""What an LLM is told: templates, and the functions that fill them in.

    system.j2      who it is and how it answers
    task.j2        one task: reference, shapes, rules, an example of another operator
    feedback.j2    what its last candidate earned, and what to do next
    refine.j2      the best candidate so far, and everything tried
    mutation.j2    one candidate to be changed
    cross.j2       two candidates to be joined
    _*.j2          parts of these
    example_*.j2   complete candidates, kept as they would be submitted

Whatever a player or a server wrote is data: `fenced` strips what is not text, trims it and puts it in a fence that it
cannot close.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

if TYPE_CHECKING:
    from fastkernels_gym.agent import Turn
    from fastkernels_gym.catalog import Observation, Task
    from fastkernels_gym.results import Evaluation

_FEEDBACK_CHARACTERS = 6000
_EXAMPLES = {"L1/silu_and_mul": "example_silu_and_mul.j2", "L1/rms_norm": "example_rms_norm.j2"}


def render_system() -> str:
    """The system message; the same for every task."""
    return _render("system.j2")


def render_task(task: Task, seen: Observation | None = None, *, device: str | None = None) -> str:
    """The first message about a task.

    Args:
        task: what is to be replaced.
        seen: the task's observation; None makes it.
        device: `cpu` or `cuda`, where it is known what the candidate will run on.
    """
    seen = seen or task.observation()
    example = next(name for name in _EXAMPLES if name != task.operator.family)
    return _render(
        "task.j2",
        task=task,
        reference=seen.reference,
        calls=[_call(case) for case in json.loads(seen.shapes)],
        device=device,
        example_operator=example,
        example=_read(_EXAMPLES[example]),
    )


def render_feedback(evaluation: Evaluation | None, *, error: str | None = None, turns_left: int | None = None) -> str:
    """The message after a candidate.

    Args:
        evaluation: what the candidate earned; None if there was no candidate.
        error: why there was none.
        turns_left: turns that remain, the coming one included, where their number is known.
    """
    return _render("feedback.j2", evaluation=evaluation, error=error, turns_left=turns_left)


def render_refine(best: Turn, last: Turn | None, turns: Sequence[Turn], *, turns_left: int | None = None) -> str:
    """A request to improve the best of several candidates.

    Args:
        best: a turn with a candidate.
        last: the last turn with a candidate, where that is another.
        turns: all turns so far, oldest first.
        turns_left: turns that remain, the coming one included, where their number is known.
    """
    return _render("refine.j2", best=best, last=last, turns=turns, turns_left=turns_left)


def render_mutation(parent: Turn, draw: int, *, turns_left: int | None = None) -> str:
    """A request to change a candidate until it is correct or, if it is, in a way that `draw`, any number, picks."""
    return _render("mutation.j2", parent=parent, draw=draw, turns_left=turns_left)


def render_cross(first: Turn, second: Turn, *, turns_left: int | None = None) -> str:
    """A request to join two correct candidates."""
    return _render("cross.j2", first=first, second=second, turns_left=turns_left)


@cache
def prompt_version() -> str:
    """A hash of all templates, 12 hexadecimal digits: runs whose prompts differ are different runs."""
    digest = hashlib.sha256()
    for name in template_names():
        text = _read(name)
        digest.update(f"{name}\0{len(text)}\0{text}".encode())
    return digest.hexdigest()[:12]


def template_names() -> list[str]:
    """The names of all templates."""
    return sorted(item.name for item in files(__package__).iterdir() if item.name.endswith(".j2"))


def fenced(text: str, language: str = "", limit: int = _FEEDBACK_CHARACTERS) -> str:
    """Text as a Markdown block that nothing in it can end.

    Args:
        text: any text.
        language: named on the opening fence.
        limit: characters kept; what is cut is the middle.
    """
    clean = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    if len(clean) > limit:
        cut = len(clean) - limit
        clean = f"{clean[: limit // 2]}\n[... {cut} characters ...]\n{clean[-(limit // 2) :]}"
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean.strip(chr(10))}\n{fence}"


def _outcome(turn: Turn) -> str:
    """What a turn earned, in one line."""
    found = turn.evaluation
    if found is None:
        return "no candidate"
    if not found.correct:
        return found.verdict.value
    timed = [f"operator {found.op.speedup:.3f}x"] if found.op else []
    timed += [f"model {found.e2e.speedup:.4f}x"] if found.e2e else []
    return ", ".join((found.verdict.value, *timed))


def _call(case: Mapping[str, Any]) -> dict[str, Any]:
    """One case of an observation as the template shows it."""
    args = [_argument(arg) for arg in case["args"]]
    init = ", ".join(f"{name}={json.dumps(value)}" for name, value in case["init"].items())
    return {"phase": case["phase"], "n": case["n"], "count": case["count"], "init": init, "args": args}


def _argument(arg: Mapping[str, Any]) -> str:
    if "value" in arg:
        return f"{arg['name']} = {json.dumps(arg['value'])}"
    strides = "" if _is_contiguous(arg["shape"], arg["stride"]) else f" strides {arg['stride']}"
    return f"{arg['name']} {arg['dtype']}{arg['shape']}{strides}"


def _is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Plain text for an LLM, not HTML; what others wrote goes through `fenced`.
    environment = Environment(
        loader=FunctionLoader(_read), undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fenced"] = fenced
    environment.filters["outcome"] = _outcome
    return environment


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values).strip() + "\n"
