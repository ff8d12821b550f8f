"""The agent `refine`: works on the best candidate so far, with a line on everything that was tried.

Unlike a conversation, the prompt does not grow with every turn's source, and a failed experiment is not built upon.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastkernels_gym.agent import Message, Turn
from fastkernels_gym.baselines.chat import ChatAgent, earned
from fastkernels_gym.catalog import Task


class RefineAgent(ChatAgent):
    """Shows the LLM the best candidate, its feedback, the last one where that is another, and the history."""

    name = "refine"

    def compose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        opening = self.opening(task)
        tried = [turn for turn in history if turn.proposal.source is not None]
        if not tried:
            return [*opening, *(message for turn in history[-1:] for message in self.exchange(turn, len(history)))]
        best = max(tried, key=earned)
        last = tried[-1] if tried[-1] is not best else None
        request = self.prompts.refine(best, last, history, turns_left=self.turns_left(len(history)))
        return [*opening, {"role": "user", "content": request}]
