"""What an agent is: given a task and what its earlier candidates earned, it proposes the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastkernels_gym.catalog import Task
from fastkernels_gym.results import Evaluation


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a proposal cost, retries included."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """One candidate, or what stood in its place.

    Args:
        source: the candidate's source; None if the agent gave none.
        reply: the text that the candidate was taken from.
        error: why there is no candidate, in one line.
        llm: the model that answered, as its server names it.
    """

    source: str | None
    reply: str = ""
    error: str | None = None
    llm: str | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Turn:
    """A proposal and what it earned; no evaluation where there was no candidate."""

    proposal: Proposal
    evaluation: Evaluation | None


class Agent(Protocol):
    """Writes candidates. One agent serves every task and sample of a run, concurrently."""

    @property
    def name(self) -> str: ...

    @property
    def llm(self) -> str | None:
        """The LLM asked for; None for agents that use none."""
        ...

    async def propose(self, task: Task, history: Sequence[Turn]) -> Proposal:
        """The next candidate for `task`; faults of an LLM's server end in `Proposal.error`, not in an exception."""
        ...

    async def aclose(self) -> None:
        """Releases connections."""
        ...
