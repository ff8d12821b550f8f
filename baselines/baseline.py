"""The agent `baseline`: resubmits the production implementation, and must earn 1.00."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.catalog import Task


class BaselineAgent:
    """Submits the operator's own file, the other operators in it included."""

    name = "baseline"
    llm = None

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        return Proposal(Path(task.operator.path).read_text(encoding="utf-8"))

    async def aclose(self) -> None:
        pass
