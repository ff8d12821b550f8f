"""What a model hardly ever feeds an operator, and what an operator must get right all the same."""

from __future__ import annotations

from collections.abc import Callable

import torch


def _heavy_tails(t: torch.Tensor) -> torch.Tensor:
    return t * torch.exp(1.5 * torch.randn_like(t))


def _not_finite(t: torch.Tensor) -> torch.Tensor:
    """One NaN and one infinity, somewhere."""
    out = t.contiguous().clone()
    if out.numel():
        at = torch.randint(out.numel(), (2,), device=t.device)
        out.view(-1)[at] = torch.tensor([torch.nan, torch.inf], dtype=t.dtype, device=t.device)
    return out


NOT_FINITE = "not finite"
HARD_VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "heavy tails": _heavy_tails,
    "large": lambda t: t * 64,
    "zeros": torch.zeros_like,
    NOT_FINITE: _not_finite,
    "integers": lambda t: torch.randint(-8, 9, t.shape, device=t.device).to(t.dtype),
}
