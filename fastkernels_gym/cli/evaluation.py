"""What `fk-gym eval` does: resolves the agent, opens the run folder, runs the loop."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fastkernels_gym import Evaluator
from fastkernels_gym.agent import Agent
from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.catalog import load_suite
from fastkernels_gym.device import DeviceFacts, device_facts
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals import (
    Account,
    Limits,
    Prices,
    RunConfig,
    RunFolder,
    Summary,
    choose_tasks,
    progress,
    run_eval,
)
from fastkernels_gym.evals.archive import read_run
from fastkernels_gym.evals.limits import require_price
from fastkernels_gym.evals.plan import Plan, plan_run
from fastkernels_gym.executor.evaluator import Device, resolve_device
from fastkernels_gym.prompts import BadTemplate, Prompts
from fastkernels_gym.request import EvalRequest
from fastkernels_gym.results import Measure, RewardKind


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The command line of `fk-gym eval`."""

    agent: str
    told: AgentOptions
    llm_concurrency: int
    prices: Path | None
    prompt_dir: Path | None
    patterns: tuple[str, ...]
    suite: str
    turns: int
    samples: int
    limits: Limits
    measure: Measure
    reward: RewardKind | None
    budget_s: float
    device: Device
    out: Path | None
    resume: bool
    allow_unsandboxed: bool


def evaluate(options: EvalOptions) -> tuple[Path, Summary, Account]:
    """Runs an evaluation, or what is missing of one, and returns its folder, metrics and account.

    Raises:
        UserError: on options that do not exist or do not fit together, before anything runs.
    """
    agent, config, prices = _settle(options)
    account = Account(agent.llm, options.limits, prices)
    path = options.out or _new_folder(agent.name)
    with (
        RunFolder(path, config, resume=options.resume, account=account) as folder,
        Evaluator(device=config.device, allow_unsandboxed=options.allow_unsandboxed) as evaluator,
        progress(config) as report,
    ):
        of = f" of {config.suite}" if config.suite else ""
        print(f"{agent.name} on {len(config.tasks)} tasks{of}, {config.device}; run folder {path}", file=sys.stderr)
        summary = run_eval(agent, evaluator, folder, concurrency=options.llm_concurrency, report=report)
        return path, summary, account


def plan(options: EvalOptions) -> Plan:
    """What `evaluate` would ask an LLM; no run folder is made.

    Raises:
        UserError: as `evaluate` does, and if the agent cannot say what it would ask.
    """
    if options.resume:
        raise UserError("--dry-run shows a whole run: leave out --resume")
    agent, config, prices = _settle(options)
    require_price(agent.llm, options.limits, prices)
    return plan_run(agent, config, prices)


def _settle(options: EvalOptions) -> tuple[Agent, RunConfig, Prices]:
    """The agent, what is asked of it, and what its tokens cost."""
    EvalRequest("", "", options.measure, options.reward, options.budget_s)
    if options.resume and options.out is None:
        raise UserError("--resume continues the run in a folder: name it with --out")
    if min(options.turns, options.samples, options.llm_concurrency) < 1:
        raise UserError("--turns, --samples and --llm-concurrency are at least 1")
    prices = Prices.load(options.prices)
    device, prompts = resolve_device(options.device), _prompts(options.prompt_dir)
    facts = _facts(options, device)
    agent = resolve_agent(options.agent, replace(options.told, device=facts, turns=options.turns, prompts=prompts))
    if options.prompt_dir is not None and agent.llm is None:
        raise UserError(f"agent {agent.name!r} asks no LLM: --prompt-dir is for 'gpt' and others that do")
    config = RunConfig(
        agent=agent.name,
        tasks=choose_tasks(options.patterns, device, options.suite),
        llm=agent.llm,
        samples=options.samples,
        turns=options.turns,
        device=device,
        measure=options.measure,
        reward=options.reward,
        budget_s=options.budget_s,
        prompts=prompts.version if agent.llm else "",
        suite="" if options.patterns else load_suite(options.suite, device).id,
        temperature=options.told.temperature,
        seed=options.told.seed,
        facts=facts,
    )
    return agent, config, prices


def _prompts(folder: Path | None) -> Prompts:
    try:
        return Prompts(folder)
    except BadTemplate as error:
        raise UserError(f"--prompt-dir: {error}") from error


def _facts(options: EvalOptions, device: Literal["cpu", "cuda"]) -> DeviceFacts:
    """What prompts say of the device: on a resume what they said before, whatever has become known since."""
    if options.resume and options.out is not None and (options.out / "config.json").exists():
        earlier = read_run(options.out).config
        if earlier.facts is not None and earlier.device == device:
            return earlier.facts
    return device_facts(device)


def _new_folder(agent: str) -> Path:
    slug = re.sub(r"[^\w.-]+", "-", agent).strip("-")
    return Path("runs", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{slug}")
