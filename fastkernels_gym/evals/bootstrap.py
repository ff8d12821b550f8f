"""Means over tasks with bootstrap confidence intervals: tasks are what a run samples, so tasks are resampled.

The percentile bootstrap of Efron (1979), with a fixed seed: the same run always gives the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over tasks.

    Args:
        value: the mean.
        ci95: its 95 % confidence interval; None where a single task gives none.
        tasks: tasks that it is over.
    """

    value: float
    ci95: tuple[float, float] | None
    tasks: int

    def exp(self) -> Self:
        """A mean of logarithms as the geometric mean that it is."""
        ci95 = None if self.ci95 is None else (math.exp(self.ci95[0]), math.exp(self.ci95[1]))
        return type(self)(math.exp(self.value), ci95, self.tasks)


def means(tasks: Sequence[Mapping[Key, float]]) -> dict[Key, Mean]:
    """The mean of each key's values over the tasks that have it.

    All keys share the resamples, so a difference that is a key of its own is a paired one.

    Args:
        tasks: the values of each task; a key that a task lacks is undefined there.
    """
    keys = list(dict.fromkeys(key for task in tasks for key in task))
    if not keys:
        return {}
    table = np.array([[task.get(key, math.nan) for key in keys] for task in tasks])
    known = ~np.isnan(table)
    counts = known.sum(axis=0)
    values = np.where(known, table, 0.0)
    centre = values.sum(axis=0) / counts
    low, high = _interval(values, known.astype(float))
    return {
        key: Mean(float(centre[i]), (float(low[i]), float(high[i])) if counts[i] > 1 else None, int(counts[i]))
        for i, key in enumerate(keys)
    }


def _interval(values: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    """The percentiles (2, keys) of resampled means of `values` (tasks, keys), 0 where not `known`."""
    size = len(values)
    draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=_RESAMPLES).astype(float)
    weights = draws @ known
    # A resample without a single task that has the key says nothing about it.
    resampled = np.divide(draws @ values, weights, out=np.full_like(weights, math.nan), where=weights > 0)
    found: NDArray[Any] = np.nanpercentile(resampled, _PERCENTILES, axis=0)
    return found
