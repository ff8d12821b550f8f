"""Agents: each a file, each an implementation of `fastkernels_gym.agent.Agent`.

| name | submits |
|---|---|
| `baseline` | the operator's production implementation |
| `reference` | the plain PyTorch reference |
| `compile` | the reference under torch.compile |
| `file:PATH` | a file, or `PATH/<operator>.py` of a folder |
| `replay:RUN` | what an earlier run submitted |
| `gpt` | what an LLM replies in one conversation a sample |
| `best_of_n` | what an LLM replies to the same question, every turn anew |
| `refine` | an LLM's improvements of the best candidate so far |
| `evolve` | an LLM's mutations and crosses of a small population |
| `hf` | what a transformers model on this machine replies, as `gpt` |
| `MODULE:CLASS` | what your own agent proposes |

The LLM is behind an OpenAI-compatible server, but for `hf`.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastkernels_gym.errors import UserError

if TYPE_CHECKING:
    from fastkernels_gym.agent import Agent
    from fastkernels_gym.baselines.chat import Chat, ChatAgent
    from fastkernels_gym.device import DeviceFacts
    from fastkernels_gym.prompts import Prompts

_HOTTEST = 2.0
AGENTS = (
    "baseline",
    "reference",
    "compile",
    "file:PATH",
    "replay:RUN",
    "gpt",
    "best_of_n",
    "refine",
    "evolve",
    "hf",
    "MODULE:CLASS",
)


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent may be told; each takes what concerns it.

    Args:
        llm: the LLM to ask.
        base_url: the server to ask; None takes `OPENAI_BASE_URL`, or OpenAI's own.
        temperature: of sampling; None takes the LLM's own.
        seed: of sampling; None is 0, and is not sent to a server.
        reply_tokens: tokens of a reply at the most.
        rpm: requests a minute at the most.
        tpm: tokens a minute at the most.
        llm_device: where an LLM on this machine runs.
        device: what candidates will run on, for prompts.
        turns: of a sample, for an LLM to be told how many are left.
        prompts: what an LLM is told; None takes the package's own templates.

    Raises:
        UserError: if a number is out of its range.
    """

    llm: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    seed: int | None = None
    reply_tokens: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    llm_device: str | None = None
    device: DeviceFacts | None = None
    turns: int | None = None
    prompts: Prompts | None = None

    def __post_init__(self) -> None:
        if self.reply_tokens is not None and self.reply_tokens < 1:
            raise UserError("--reply-tokens is at least 1")
        if any(rate is not None and not rate > 0 for rate in (self.rpm, self.tpm)):
            raise UserError("--rpm and --tpm are more than 0")
        if self.temperature is not None and not 0 <= self.temperature <= _HOTTEST:
            raise UserError(f"--temperature is 0 to {_HOTTEST:g}")

    @property
    def of_an_llm(self) -> bool:
        """Whether there is one that makes sense for an LLM only."""
        asked = (self.llm, self.base_url, self.temperature, self.seed, self.reply_tokens, self.llm_device)
        return any(option is not None for option in (*asked, self.rpm, self.tpm))


def resolve_agent(name: str, options: AgentOptions | None = None) -> Agent:
    """The agent of a name.

    Raises:
        UserError: if there is no such agent, or it lacks or does not take one of the options.
    """
    options = options or AgentOptions()
    kind, _, argument = name.partition(":")
    if strategy := _strategy(name):
        chat, seed = _chat(name, options), options.seed or 0
        return strategy(chat, turns=options.turns, device=options.device, prompts=options.prompts, seed=seed)
    own = kind not in ("file", "replay") and bool(kind and argument)
    if own:
        return _own_agent(kind, argument, options)
    if options.of_an_llm:
        raise UserError(
            f"agent {name!r} asks no LLM: --model and other options of one are for 'gpt' and others that do"
        )
    if name == "baseline":
        from fastkernels_gym.baselines.baseline import BaselineAgent

        return BaselineAgent()
    if name == "reference":
        from fastkernels_gym.baselines.reference import ReferenceAgent

        return ReferenceAgent()
    if name == "compile":
        from fastkernels_gym.baselines.compile import CompileAgent

        return CompileAgent()
    if kind == "file" and argument:
        from fastkernels_gym.baselines.file import FileAgent

        return FileAgent(argument)
    if kind == "replay" and argument:
        from fastkernels_gym.baselines.replay import ReplayAgent

        return ReplayAgent(argument)
    raise UserError(f"no agent {name!r}: there are {', '.join(AGENTS)}")


def _chat(name: str, options: AgentOptions) -> Chat:
    """The LLM that an agent asks."""
    if name == "hf":
        from fastkernels_gym.baselines.local_chat import LocalChat

        if options.base_url or options.rpm is not None or options.tpm is not None:
            raise UserError("agent 'hf' asks no server: --base-url, --rpm and --tpm are for 'gpt' and others that do")
        return LocalChat(
            options.llm,
            device=options.llm_device,
            max_new_tokens=options.reply_tokens,
            temperature=options.temperature,
        )
    from fastkernels_gym.baselines.openai_chat import OpenAIChat
    from fastkernels_gym.baselines.pace import Pace

    if options.llm_device:
        raise UserError(f"agent {name!r} asks a server: --llm-device is for 'hf'")
    return OpenAIChat(
        options.llm,
        base_url=options.base_url,
        pace=Pace(options.rpm, options.tpm),
        reply_tokens=options.reply_tokens,
        temperature=options.temperature,
        seeded=options.seed is not None,
    )


def _strategy(name: str) -> type[ChatAgent] | None:
    """The agent that asks an LLM, of a name."""
    from fastkernels_gym.baselines.best_of_n import BestOfNAgent
    from fastkernels_gym.baselines.evolve import EvolveAgent
    from fastkernels_gym.baselines.gpt import GPTAgent
    from fastkernels_gym.baselines.hf import HFAgent
    from fastkernels_gym.baselines.refine import RefineAgent

    agents: tuple[type[ChatAgent], ...] = (GPTAgent, BestOfNAgent, RefineAgent, EvolveAgent, HFAgent)
    return next((agent for agent in agents if agent.name == name), None)


def _own_agent(module: str, class_name: str, options: AgentOptions) -> Agent:
    """A user's agent: an importable class, told the options that its constructor names.

    Raises:
        UserError: if it cannot be imported or is no agent, or if its constructor raises one.
    """
    name = f"{module}:{class_name}"
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"no agent {name!r}: {error}; there are {', '.join(AGENTS)}") from error
    if not isinstance(found, type) or not all(hasattr(found, method) for method in ("propose", "aclose")):
        raise UserError(f"{name!r} is no agent: a class with propose() and aclose() is")
    known = {field: getattr(options, field) for field in AgentOptions.__dataclass_fields__}
    named = inspect.signature(found).parameters
    agent: Agent = found(**{field: value for field, value in known.items() if field in named})
    for attribute in ("name", "llm"):
        if not hasattr(agent, attribute):
            raise UserError(f"{name!r} is no agent: it has no {attribute}")
    return agent
