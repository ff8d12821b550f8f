"""Which tasks an environment draws from."""

from __future__ import annotations

from collections.abc import Sequence

from fastkernels_gym.catalog import list_tasks
from fastkernels_gym.errors import UnknownTask

DEFAULT_MODELS = {"cuda": "llama-3.1-8b", "cpu": "tiny-llama"}


def matching_tasks(patterns: Sequence[str], level: int | None = None) -> list[str]:
    """The tasks that match any of the patterns, of whatever split: in order, once each.

    Args:
        patterns: as `list_tasks` takes them; a whole task id is one.
        level: keeps only operators of this level.

    Raises:
        UnknownTask: if a pattern matches nothing, or nothing that matches is of this level.
    """
    found = list(dict.fromkeys(task for pattern in patterns for task in list_tasks(pattern)))
    kept = [task for task in found if level is None or task.startswith(f"L{level}/")]
    if not kept:
        raise UnknownTask(f"no task of level {level} matches {', '.join(patterns) or 'no pattern'}")
    return kept


def training_tasks(device: str, level: int | None = None) -> list[str]:
    """The training split's tasks of the device's default model.

    Args:
        device: `cpu` or `cuda`.
        level: keeps only operators of this level.
    """
    operators = "*" if level is None else f"L{level}/*"
    return list_tasks(f"{operators}@{DEFAULT_MODELS[device]}", split="train")
