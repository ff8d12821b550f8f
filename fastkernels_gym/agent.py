"""What an agent is: given a task and what its earlier candidates earned, it proposes the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypedDict, runtime_checkable

from fastkernels_gym.catalog import Task
from fastkernels_gym.results import Evaluation


class Message(TypedDict):
    """One message of a chat, as OpenAI's API and chat templates take it."""

    role: Literal["system", "user", "assistant"]
    content: str


class LLMFault(StrEnum):
    """What can go wrong between a request and a usable reply."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    REFUSED = "refused"  # an error that asking again does not mend: a bad key, an unknown model, no quota
    INVALID = "invalid"  # no JSON, or JSON of another kind
    TRUNCATED = "truncated"  # the stream ended before the reply did
    EMPTY_CHOICES = "empty_choices"
    EMPTY_REPLY = "empty_reply"
    CONTENT_FILTER = "content_filter"
    OVERSIZED = "oversized"
    CONTEXT_OVERFLOW = "context_overflow"  # the chat is longer than what the LLM can read

    @property
    def is_result(self) -> bool:
        """Whether it is the LLM's own: it uses up a turn, as a reply without a candidate does."""
        return self in (LLMFault.CONTENT_FILTER, LLMFault.OVERSIZED, LLMFault.CONTEXT_OVERFLOW)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a proposal cost, retries included; prompt tokens include cached ones, completion tokens reasoning."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, each once."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """One candidate, or what stood in its place.

    Args:
        source: the candidate's source; None if the agent gave none.
        reply: the text that the candidate was taken from.
        error: why there is no candidate, in one line.
        llm: the model that answered, as its server names it.
        usage: what it cost, failed requests included.
        faults: of the LLM's endpoint, in the order met; the last one stands where there is no reply.
    """

    source: str | None
    reply: str = ""
    error: str | None = None
    llm: str | None = None
    usage: Usage = field(default_factory=Usage)
    faults: tuple[LLMFault, ...] = ()


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

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        """The next candidate for `task`; faults of an LLM's server end in `Proposal.error`, not in an exception.

        Everything an agent knows of a sample is its arguments: so a run that was killed goes on as if it had not been.

        Args:
            task: what is to be replaced.
            history: the sample's turns so far, oldest first.
            sample: which of the independent attempts at the task this is, from 0.
        """
        ...

    async def aclose(self) -> None:
        """Releases connections."""
        ...


@runtime_checkable
class Prompting(Protocol):
    """An agent that can say what it would ask its LLM."""

    def messages(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        """The chat whose reply would be the next candidate."""
        ...
