"""Splits: which tasks agents may train on, and which are kept to test them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastkernels_gym.catalog.ids import TaskId

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is held out; a published version never changes.

    Args:
        version: of the manifest.
        families: operator files that no training task replaces, whatever the model.
        models: models of which no training task is made; under a hub id its last part counts, in lower case.
        tensor_parallel: whether the shapes of sharded models are held out.
    """

    version: int
    families: frozenset[str]
    models: frozenset[str]
    tensor_parallel: bool


MANIFEST = Manifest(
    version=1,
    families=frozenset({"L1/rotary_emb", "L2/qwen3_attention", "L3/qwen3_decoder", "L4/qwen3"}),
    models=frozenset({"llama-3.1-70b", "qwen2.5-7b", "qwen3-8b"}),
    tensor_parallel=True,
)


def split_of(task_id: str) -> Split:
    """The split of a task, by its id alone.

    Raises:
        UnknownTask: if the text does not follow the grammar of ids.
    """
    parsed = TaskId.parse(task_id)
    family = parsed.operator.partition(".")[0]
    model = parsed.model.rstrip("/").removesuffix("/config.json").rpartition("/")[2].removesuffix(".json").lower()
    held_out = family in MANIFEST.families or model in MANIFEST.models or (MANIFEST.tensor_parallel and parsed.tp > 1)
    return "test" if held_out else "train"


def smoke_tasks(device: str) -> list[str]:
    """One task of each level on a small model, for checking that an installation works.

    Args:
        device: `cpu` or `cuda`.
    """
    model = "llama-3.2-1b" if device.startswith("cuda") else "tiny-llama"
    return [f"{operator}@{model}" for operator in ("L1/rms_norm", "L2/llama_mlp", "L3/llama_decoder", "L4/llama")]
