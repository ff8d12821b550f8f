"""What a run would ask its LLM, and about how much that would come to, without asking anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fastkernels_gym.agent import Agent, Message, Prompting, Usage
from fastkernels_gym.catalog import load_task
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.folder import RunConfig
from fastkernels_gym.evals.prices import Prices

REPLY_TOKENS = 8192
"""What a reply is taken to have, reasoning included; where replies are longer, so is the truth."""
FEEDBACK_TOKENS = 2048
"""What feedback on a turn is taken to have."""
_BYTES_PER_TOKEN = 2
"""Prompts have three to four; with fewer a token the estimate errs upwards."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The chat with which samples of a task begin; several where an agent opens samples differently."""

    task: str
    samples: tuple[int, ...]
    messages: tuple[Message, ...]

    @property
    def tokens(self) -> int:
        """An upper estimate."""
        return sum(len(message["content"].encode("utf-8", "replace")) for message in self.messages) // _BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would ask, if no request has to be repeated.

    Args:
        prompts: the first turn's; later ones depend on replies.
        calls: replies asked for: tasks x samples x turns.
        usage: upper estimate of tokens, every turn seeing all earlier ones of its sample.
        dollars: their price, nothing cached; None where the LLM has none.
        caveat: what to say behind it.
    """

    prompts: tuple[Prompt, ...]
    calls: int
    usage: Usage
    dollars: float | None
    caveat: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reply_tokens": REPLY_TOKENS, "feedback_tokens": FEEDBACK_TOKENS}


def plan_run(agent: Agent, config: RunConfig, prices: Prices) -> Plan:
    """The plan of a whole run; the agent is closed.

    Raises:
        UserError: if the agent asks an LLM but cannot say what, or a task does not exist.
    """
    asyncio.run(agent.aclose())
    if agent.llm is None:
        return Plan((), 0, Usage(), None)
    if not isinstance(agent, Prompting):
        raise UserError(f"agent {agent.name!r} does not say what it would ask: --dry-run needs its messages()")
    prompts = tuple(prompt for task in config.tasks for prompt in _prompts(agent, task, config.samples))
    usage = _estimate(prompts, config.turns)
    price = prices.find(agent.llm)
    dollars = price.dollars(usage) if price else None
    return Plan(prompts, usage.requests, usage, dollars, prices.caveat(agent.llm))


def _prompts(agent: Prompting, task_id: str, samples: int) -> list[Prompt]:
    """The distinct prompts of a task's samples."""
    task = load_task(task_id)
    found: list[Prompt] = []
    for sample in range(samples):
        messages = tuple(agent.messages(task, (), sample=sample))
        same = next((at for at, prompt in enumerate(found) if prompt.messages == messages), None)
        if same is None:
            found.append(Prompt(task_id, (sample,), messages))
        else:
            found[same] = Prompt(task_id, (*found[same].samples, sample), messages)
    return found


def _estimate(prompts: Iterable[Prompt], turns: int) -> Usage:
    earlier = (REPLY_TOKENS + FEEDBACK_TOKENS) * turns * (turns - 1) // 2
    usage = Usage()
    for prompt in prompts:
        samples = len(prompt.samples)
        usage += Usage(
            prompt_tokens=samples * (turns * prompt.tokens + earlier),
            completion_tokens=samples * turns * REPLY_TOKENS,
            requests=samples * turns,
        )
    return usage
