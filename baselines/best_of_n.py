"""The agent `best_of_n`: every turn is a fresh attempt; the best of them counts.

What feedback is worth is the difference between this agent and `gpt` or `refine` at the same number of turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastkernels_gym.agent import Message, Turn
from fastkernels_gym.baselines.chat import ChatAgent
from fastkernels_gym.catalog import Task


class BestOfNAgent(ChatAgent):
    """Asks the same question every turn and shows the LLM nothing of its earlier answers."""

    name = "best_of_n"

    def compose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        return self.opening(task)
