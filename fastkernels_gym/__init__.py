"""FastKernels Gym: agents are paid for GPU kernels that make real models faster."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastkernels_gym.registration import register_when_imported

__version__ = "0.1.0"

_LAZY = {
    "Evaluator": "fastkernels_gym.executor",
    "EvalRequest": "fastkernels_gym.request",
    "Evaluation": "fastkernels_gym.results",
    "Verdict": "fastkernels_gym.results",
    "list_tasks": "fastkernels_gym.catalog",
    "load_task": "fastkernels_gym.catalog",
    "load_model": "fastkernels_gym.engine",
}

__all__ = ["Evaluation", "EvalRequest", "Evaluator", "Verdict", "list_tasks", "load_model", "load_task"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_when_imported()
