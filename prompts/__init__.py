"""What an LLM is told: templates, and the class that fills them in.

    system.j2      who it is and how it answers
    task.j2        one task: reference, shapes, device, toolchains, rules, an example of another operator
    feedback.j2    what its last candidate earned, and what to do next
    refine.j2      the best candidate so far, and everything tried
    mutation.j2    one candidate to be changed
    cross.j2       two candidates to be joined
    _*.j2          parts of these
    example_*.j2   complete candidates, kept as they would be submitted

Whatever a player, a server or an LLM wrote is data: `fenced` strips what is not text, breaks up the markers of chat
templates, trims it and puts it in a fence that it cannot close.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastkernels_gym.prompts.templates import BadTemplate, Templates
from fastkernels_gym.prompts.text import fenced, plain

if TYPE_CHECKING:
    from fastkernels_gym.agent import Turn
    from fastkernels_gym.catalog import Case, Observation, Task
    from fastkernels_gym.device import DeviceFacts
    from fastkernels_gym.results import Evaluation

__all__ = ["BadTemplate", "Prompts", "fenced", "plain"]

_EXAMPLES = {"L1/silu_and_mul": "example_silu_and_mul.j2", "L1/rms_norm": "example_rms_norm.j2"}


class Prompts:
    """Every message to an LLM.

    Args:
        folder: holds templates to use in place of the packaged ones of the same names; None for none.

    Raises:
        BadTemplate: if one of them is not usable; rendering raises it too.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._templates = Templates(folder)
        self._templates.filters(fenced=fenced, outcome=_outcome, amount=_amount)

    @property
    def version(self) -> str:
        """A hash of all templates: runs whose prompts differ are different runs."""
        return self._templates.version

    def system(self) -> str:
        """The system message; the same for every task."""
        return self._templates.render("system.j2")

    def task(self, task: Task, seen: Observation | None = None, *, device: DeviceFacts | None = None) -> str:
        """The first message about a task.

        Args:
            task: what is to be replaced.
            seen: the task's observation; None makes it.
            device: what the candidate will run on, where that is known.
        """
        seen = seen or task.observation()
        example = next(name for name in _EXAMPLES if name != task.operator.family)
        return self._templates.render(
            "task.j2",
            task=task,
            reference=seen.reference,
            calls=[_call(case, device, task.model.dtype) for case in task.cases],
            device=device,
            example_operator=example,
            example=self._templates.text(_EXAMPLES[example]),
        )

    def feedback(
        self, evaluation: Evaluation | None, *, error: str | None = None, turns_left: int | None = None
    ) -> str:
        """The message after a candidate.

        Args:
            evaluation: what the candidate earned; None if there was no candidate.
            error: why there was none.
            turns_left: turns that remain, the coming one included, where their number is known.
        """
        return self._templates.render("feedback.j2", evaluation=evaluation, error=error, turns_left=turns_left)

    def refine(self, best: Turn, last: Turn | None, turns: Sequence[Turn], *, turns_left: int | None = None) -> str:
        """A request to improve the best of several candidates.

        Args:
            best: a turn with a candidate.
            last: the last turn with a candidate, where that is another.
            turns: all turns so far, oldest first.
            turns_left: turns that remain, the coming one included, where their number is known.
        """
        return self._templates.render("refine.j2", best=best, last=last, turns=turns, turns_left=turns_left)

    def mutation(self, parent: Turn, draw: int, *, turns_left: int | None = None) -> str:
        """A request to change a candidate until it is correct or, if it is, in a way that `draw`, any number, picks."""
        return self._templates.render("mutation.j2", parent=parent, draw=draw, turns_left=turns_left)

    def cross(self, first: Turn, second: Turn, *, turns_left: int | None = None) -> str:
        """A request to join two correct candidates."""
        return self._templates.render("cross.j2", first=first, second=second, turns_left=turns_left)


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


def _call(case: Case, device: DeviceFacts | None, dtype: object) -> dict[str, Any]:
    """One case as the template shows it; `dtype` is the model's."""
    init = ", ".join(f"{name}={json.dumps(value)}" for name, value in case.init.items())
    least = None
    if device is not None and device.bytes_per_s is not None:
        least = case.work.least_seconds(device.bytes_per_s, device.flops_of(dtype))
    args = [_argument(arg) for arg in case.args]
    return {"phase": case.phase, "n": case.n, "count": case.count, "init": init, "args": args} | {
        "bytes": case.work.bytes,
        "flops": case.work.flops,
        "least_us": None if least is None else least * 1e6,
    }


def _argument(arg: Any) -> str:
    if not arg.is_tensor:
        return f"{arg.name} = {json.dumps(arg.value)}"
    strides = "" if _is_contiguous(arg.shape, arg.stride) else f" strides {list(arg.stride)}"
    return f"{arg.name} {arg.dtype}{list(arg.shape)}{strides}"


def _is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _amount(number: float, unit: str) -> str:
    """A quantity to three digits with the unit's decimal prefix, such as `4.27 TB`."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < 999.5 or prefix == "T":
            break
        number /= 1000
    return f"{number:.3g} {prefix}{unit}" if number < 999.5 else f"{number:.0f} {prefix}{unit}"
