"""The manifest: what is held out from training and which tasks the suites are made of, frozen under one version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

LATEST = 1


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What no training task touches.

    Args:
        families: operator files that no training task replaces, whatever the model.
        models: models of which no training task is made; under a hub id its last part counts, in lower case.
        workloads: workloads whose shapes no training task has.
        tensor_parallel: whether the shapes of sharded models are held out.
    """

    families: frozenset[str]
    models: frozenset[str]
    workloads: frozenset[str]
    tensor_parallel: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of `tasks/suites/v<version>.json`; a published version never changes.

    Args:
        version: of the manifest.
        held_out: the rules that part the splits.
        suites: the suites' task ids, by name and then by device (`cpu`, `cuda`).
    """

    version: int
    held_out: HeldOut
    suites: Mapping[str, Mapping[str, tuple[str, ...]]]


@cache
def load_manifest(version: int = LATEST) -> Manifest:
    """The manifest of a version, 1 to `LATEST`."""
    path = files("fastkernels_gym.tasks").joinpath("suites", f"v{version}.json")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rules = data["held_out"]
    held_out = HeldOut(
        families=frozenset(rules["families"]),
        models=frozenset(rules["models"]),
        workloads=frozenset(rules["workloads"]),
        tensor_parallel=rules["tensor_parallel"],
    )
    suites = {
        name: MappingProxyType({device: tuple(ids) for device, ids in tasks.items()})
        for name, tasks in data["suites"].items()
    }
    return Manifest(version, held_out, MappingProxyType(suites))
