"""The agent `evolve`: a small population, tournaments, and prompts that mutate or cross what survived.

Steady-state evolution as in FunSearch (Romera-Paredes et al., 2024) and AlphaEvolve, at the scale of one sample: the
first candidates are independent, each later one is a mutation of a parent or a cross of two. Which, is drawn from a
generator seeded with the task, the sample and the turn, so that a resumed run asks what an unbroken one would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fastkernels_gym.agent import Message, Turn
from fastkernels_gym.baselines.chat import ChatAgent, earned
from fastkernels_gym.catalog import Task

FOUNDERS = 3
POPULATION = 6
_TOURNAMENT = 2
_CROSSED = 0.25


class EvolveAgent(ChatAgent):
    """Breeds candidates: `FOUNDERS` independent ones, then children of the best `POPULATION`."""

    name = "evolve"

    def compose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        opening = self.opening(task)
        population = _population(history)
        if len(history) < FOUNDERS or not population:
            return opening
        random = Random(f"{task.id}#{sample}.{len(history)}")
        left = self.turns_left(len(history))
        parent = _tournament(population, random)
        mates = [turn for turn in population if turn is not parent and earned(turn)[0]]
        if earned(parent)[0] and mates and random.random() < _CROSSED:
            request = self.prompts.cross(parent, _tournament(mates, random), turns_left=left)
        else:
            request = self.prompts.mutation(parent, random.getrandbits(32), turns_left=left)
        return [*opening, {"role": "user", "content": request}]


def _population(history: Sequence[Turn]) -> list[Turn]:
    """The best distinct candidates, best first, of equals the youngest."""
    distinct = {turn.proposal.source: turn for turn in history if turn.proposal.source is not None}
    return sorted(reversed(distinct.values()), key=earned, reverse=True)[:POPULATION]


def _tournament(population: Sequence[Turn], random: Random) -> Turn:
    return max(random.sample(population, min(_TOURNAMENT, len(population))), key=earned)
