"""Agents: each a file, each an implementation of `fastkernels_gym.agent.Agent`.

| name | submits |
|---|---|
| `baseline` | the operator's production implementation |
| `reference` | the plain PyTorch reference |
| `compile` | the reference under torch.compile |
| `file:PATH` | a file, or `PATH/<operator>.py` of a folder |
| `gpt` | what an LLM behind an OpenAI-compatible server replies |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkernels_gym.errors import UserError

if TYPE_CHECKING:
    from fastkernels_gym.agent import Agent

AGENTS = ("baseline", "reference", "compile", "file:PATH", "gpt")


def resolve_agent(
    name: str,
    *,
    llm: str | None = None,
    base_url: str | None = None,
    device: str | None = None,
    turns: int | None = None,
) -> Agent:
    """The agent of a name.

    Args:
        name: one of `AGENTS`.
        llm: the LLM that `gpt` asks; no other agent takes one.
        base_url: the server that `gpt` asks; None takes `OPENAI_BASE_URL`, or OpenAI's own.
        device: `cpu` or `cuda`: what candidates will run on, for the prompts of `gpt`.
        turns: of a sample, for `gpt` to be told how many are left.

    Raises:
        UserError: if there is no such agent, or it lacks or does not take one of the arguments.
    """
    kind, _, path = name.partition(":")
    if name == "gpt":
        from fastkernels_gym.baselines.gpt import GPTAgent

        return GPTAgent(llm, base_url=base_url, device=device, turns=turns)
    if llm or base_url:
        raise UserError(f"agent {name!r} asks no LLM: --model and --base-url are for 'gpt'")
    if name == "baseline":
        from fastkernels_gym.baselines.baseline import BaselineAgent

        return BaselineAgent()
    if name == "reference":
        from fastkernels_gym.baselines.reference import ReferenceAgent

        return ReferenceAgent()
    if name == "compile":
        from fastkernels_gym.baselines.compile import CompileAgent

        return CompileAgent()
    if kind == "file" and path:
        from fastkernels_gym.baselines.file import FileAgent

        return FileAgent(path)
    raise UserError(f"no agent {name!r}: there are {', '.join(AGENTS)}")
