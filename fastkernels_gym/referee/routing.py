"""Routing is a decision: where two experts' scores lie closer than the router's own noise, either may be right.

A token whose decision hangs on such a margin is unsettled: its rows say nothing about accuracy and leave the ratio.
The noise is measured: what the baseline's router is handed, against what the oracle's is. Only the referee's own
modules are asked, so no candidate has a say in which rows leave. Exact ties are settled, the lower expert wins: but for
those that the baseline's rounding has made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastkernels_gym.referee import numerics


class Routers:
    """The routers below a module, and the scores that they are handed.

    A router is an operator whose reference can tell `margins(scores)`: by how much each choice won over the next.

    Args:
        module: the operator whose calls are judged.
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = module
        self._routers = [part for part in module.modules() if hasattr(part, "margins")]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._routers)

    @contextmanager
    def heard(self) -> Iterator[list[torch.Tensor]]:
        """Yields the list to which each router's scores are added meanwhile."""
        scores: list[torch.Tensor] = []

        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            scores.append(arguments[0].double())

        handles = [router.register_forward_pre_hook(hook) for router in self._routers]
        try:
            yield scores
        finally:
            for handle in handles:
                handle.remove()

    def unsettled(self, baseline: list[torch.Tensor], oracle: list[torch.Tensor]) -> torch.Tensor | None:
        """Which rows leave the ratio: (rows,) bool; None where none does.

        Args:
            baseline: the scores that the baseline's routers were handed, (rows, experts) each.
            oracle: the same of the oracle's.
        """
        return self.near_ties(oracle, self.noise(baseline, oracle))

    def noise(self, baseline: list[torch.Tensor], oracle: list[torch.Tensor]) -> tuple[float, ...]:
        """The RMS error of the scores that each of the baseline's routers was handed."""
        return tuple(numerics.router_noise(*pair) for pair in zip(baseline, oracle, strict=False))

    def near_ties(
        self, scores: list[torch.Tensor], noise: tuple[float, ...], *, rounded: bool = False
    ) -> torch.Tensor | None:
        """Which rows hang on a margin within each router's noise: (rows,) bool; None where none does.

        Args:
            scores: of each router, (rows, experts) each.
            noise: of each router.
            rounded: whether the scores are the baseline's, whose exact ties may be near ones; never those that an
                operator is handed.
        """
        closest: torch.Tensor | None = None
        for router, given, off in zip(self._routers, scores, noise, strict=False):
            margins = router.margins(given)  # type: ignore[operator]
            own = router is self._own
            if not own:
                margins = margins[:, -1:]  # further up it only counts who is chosen, not in which order
            if own or not rounded:
                margins = torch.where(margins > 0, margins, torch.inf)
            margins = margins / off
            nearest = margins.amin(-1) if margins.shape[-1] else margins.new_full(margins.shape[:1], torch.inf)
            closest = nearest if closest is None else torch.minimum(closest, nearest)
        if closest is None or not (closest <= numerics.MARGIN).any():
            return None
        most = max(1, int(numerics.MOST_UNSETTLED * closest.numel()))
        leaving = torch.zeros_like(closest, dtype=torch.bool)
        leaving[closest.argsort()[:most]] = True
        return leaving & (closest <= numerics.MARGIN)
