"""Sampling in which every row of a batch draws for itself: what a chat gets does not depend on who waits beside it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria


class RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Leaves of each row's tokens the one that is drawn, by a generator of the row's own; greedy search then takes it.

    Args:
        seeds: one for each row.
        temperature: more than 0.
        top_k: the likeliest tokens to draw from; 0 for all.
        top_p: the share of probability to draw from, of the likeliest tokens.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_k: int = 0, top_p: float = 1.0) -> None:
        self._draws = [random.Random(seed) for seed in seeds]
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (rows, vocabulary) with all tokens but the drawn ones at minus infinity."""
        ordered, tokens = (scores.float() / self._temperature).sort(dim=-1, descending=True)
        if self._top_k > 0:
            ordered[:, self._top_k :] = -math.inf
        shares = ordered.softmax(dim=-1)
        sums = shares.cumsum(dim=-1)
        # A token counts if the likelier ones do not hold top_p already; the first always does.
        kept = sums - shares < self._top_p
        reached = torch.where(kept, sums, 0.0).amax(dim=-1)
        drawn = torch.tensor([draw.random() for draw in self._draws], device=scores.device) * reached
        place = (sums <= drawn[:, None]).sum(dim=-1, keepdim=True)
        chosen = tokens.gather(1, place.minimum(kept.sum(dim=-1, keepdim=True) - 1))
        return torch.full_like(scores, -math.inf).scatter_(1, chosen, 0.0)


class RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at its own length.

    Args:
        begin: tokens of a row, padding included, before the first new one.
        limits: new tokens of each row at the most.
    """

    def __init__(self, begin: int, limits: Sequence[int]) -> None:
        self._begin, self._limits = begin, torch.tensor(limits)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows (rows,) have ended."""
        return (self._limits <= input_ids.shape[1] - self._begin).to(input_ids.device)
