"""Runs an L4 model: paged KV cache, prefill and decode steps, CUDA graphs, continuous batching.

Nothing is imported before it is asked for: players use parts of this package and pay for no more.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {"Engine": "fastkernels_gym.engine.llm", "load_model": "fastkernels_gym.engine.loading"}

__all__ = ["Engine", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
