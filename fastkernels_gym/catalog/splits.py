"""Splits: which tasks agents may train on, and which are kept to test them."""

from __future__ import annotations

from typing import Literal

from fastkernels_gym.catalog.ids import TaskId
from fastkernels_gym.catalog.manifest import load_manifest

Split = Literal["train", "test"]


def split_of(task_id: str) -> Split:
    """The split of a task, by its id alone: `test` if its operator's family, its model or its shapes are held out.

    Raises:
        UnknownTask: if the text does not follow the grammar of ids.
    """
    parsed = TaskId.parse(task_id)
    rules = load_manifest().held_out
    family = parsed.operator.partition(".")[0]
    model = parsed.model.rstrip("/").removesuffix("/config.json").rpartition("/")[2].removesuffix(".json").lower()
    shapes = parsed.workload in rules.workloads or (rules.tensor_parallel and parsed.tp > 1)
    return "test" if family in rules.families or model in rules.models or shapes else "train"
