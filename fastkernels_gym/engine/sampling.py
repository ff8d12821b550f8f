"""From logits to tokens: the likeliest, or one drawn, sequence by sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastkernels_gym.engine.scheduler import Generation


def sample(logits: torch.Tensor, generations: Sequence[Generation]) -> torch.Tensor:
    """One token a sequence, by its temperature and its generator.

    Args:
        logits: (batch, vocabulary) of any dtype.
        generations: one for each row.

    Returns:
        (batch,) int64.
    """
    if any(generation.temperature for generation in generations):
        heat = torch.tensor([generation.temperature for generation in generations], device=logits.device).unsqueeze(1)
        scores = logits.float()
        # Shifted first: divided by a small temperature, the largest alone stays finite.
        scores = ((scores - scores.amax(-1, keepdim=True)) / heat).softmax(-1)
        noise = torch.empty_like(scores).exponential_()
        for row, generation in enumerate(generations):
            if generation.temperature and generation.generator is not None:
                noise[row].exponential_(generator=generation.generator)
        # The largest of p / Exp(1) is a draw from p, without the host's waiting for a sum.
        logits = torch.where(heat > 0, scores / noise.clamp_min_(1e-10), logits)
    return logits.argmax(-1)
