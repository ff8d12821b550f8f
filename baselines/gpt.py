"""The agent `gpt`: one conversation a sample, with all earlier turns and what they earned in view."""

from __future__ import annotations

from collections.abc import Sequence

from fastkernels_gym.agent import Message, Turn
from fastkernels_gym.baselines.chat import ChatAgent
from fastkernels_gym.catalog import Task


class GPTAgent(ChatAgent):
    """Asks an LLM for a better candidate each turn; with one turn, for one candidate."""

    name = "gpt"

    def compose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        exchanges = (self.exchange(turn, number) for number, turn in enumerate(history, 1))
        return [*self.opening(task), *(message for exchange in exchanges for message in exchange)]
