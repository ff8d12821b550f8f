"""What the agents that ask an LLM share: a chat that answers, and the way from its reply to a candidate.

An agent decides what to ask (`messages`); a `Chat` gets the reply, such as from a server
(`openai_chat`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastkernels_gym.agent import LLMFault, Message, Proposal, Turn, Usage
from fastkernels_gym.candidate import parse_reply
from fastkernels_gym.catalog import Task
from fastkernels_gym.device import DeviceFacts
from fastkernels_gym.errors import UserError
from fastkernels_gym.prompts import BadTemplate, Prompts, fenced, plain

LARGEST_REPLY = 1 << 20
"""Characters; what is longer is no answer that anyone reads."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one question.

    Args:
        text: the reply; empty where there is none.
        llm: the model that answered, as its server names it.
        cut: whether the reply ended at its longest and not where the LLM ended it.
        usage: what it cost, failed requests included.
        faults: of the endpoint, in the order met.
        error: why there is no reply, in one line.
    """

    text: str = ""
    llm: str | None = None
    cut: bool = False
    usage: Usage = Usage()
    faults: tuple[LLMFault, ...] = ()
    error: str | None = None


class Chat(Protocol):
    """An LLM that answers chats, many at once."""

    @property
    def llm(self) -> str:
        """The LLM asked for."""
        ...

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        """Asks; whatever goes wrong at the other end is in the reply and not an exception.

        Args:
            messages: the chat.
            seed: of whatever is drawn; the same chat with the same seed has the same reply, as far as an LLM can.
        """
        ...

    async def aclose(self) -> None: ...


class ChatAgent(ABC):
    """An agent whose candidates are an LLM's replies; what it asks is all that differs.

    Args:
        chat: the LLM.
        turns: of a sample, for the LLM to know how many are left.
        device: what candidates run on.
        prompts: what the LLM is told; None takes the package's own templates.
        seed: of the run; every turn of every sample has one of its own, made of it.
    """

    name: str

    def __init__(
        self,
        chat: Chat,
        *,
        turns: int | None = None,
        device: DeviceFacts | None = None,
        prompts: Prompts | None = None,
        seed: int = 0,
    ) -> None:
        self._chat, self._turns, self._device, self._seed = chat, turns, device, seed
        self.prompts = prompts or Prompts()

    @property
    def llm(self) -> str:
        return self._chat.llm

    @abstractmethod
    def compose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        """What the agent asks: the chat whose reply is the next candidate."""

    def messages(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> list[Message]:
        """What the agent asks.

        Raises:
            UserError: if a user's template is at fault.
        """
        try:
            return self.compose(task, history, sample=sample)
        except BadTemplate as error:
            raise UserError(str(error)) from error

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        name = f"{self._seed}:{task.id}#{sample}.{len(history)}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1  # 31 bits, which every server can hold
        reply = await self._chat.reply(self.messages(task, history, sample=sample), seed=seed)
        source = parse_reply(reply.text) if reply.error is None else None
        error = reply.error
        if source is None and error is None:
            error = "the reply was cut off at its longest" if reply.cut else "the reply holds no candidate"
        return Proposal(source, reply.text, error, reply.llm, reply.usage, reply.faults)

    async def aclose(self) -> None:
        await self._chat.aclose()

    def opening(self, task: Task) -> list[Message]:
        """The messages with which every chat about a task begins."""
        return [
            {"role": "system", "content": self.prompts.system()},
            {"role": "user", "content": self.prompts.task(task, device=self._device)},
        ]

    def exchange(self, turn: Turn, number: int) -> list[Message]:
        """A turn as the LLM remembers it, with what it earned; nothing where the server failed.

        Args:
            turn: the turn.
            number: turns that had ended when this one had.
        """
        source = turn.proposal.source
        reply = plain(turn.proposal.reply) or (fenced(source, "python", LARGEST_REPLY) if source else "")
        if not reply:
            return []
        left = self.turns_left(number)
        feedback = self.prompts.feedback(turn.evaluation, error=turn.proposal.error, turns_left=left)
        return [{"role": "assistant", "content": reply}, {"role": "user", "content": feedback}]

    def turns_left(self, number: int) -> int | None:
        """Turns that remain after `number` of them."""
        return self._turns - number if self._turns is not None else None


def earned(turn: Turn) -> tuple[bool, float]:
    """What orders turns: correct ones before others, then by reward."""
    found = turn.evaluation
    return (found is not None and found.correct is True, found.reward if found is not None else 0.0)
