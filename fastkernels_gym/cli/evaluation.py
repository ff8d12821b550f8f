"""What `fk-gym eval` does: resolves the agent, opens the run folder, runs the loop."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastkernels_gym import Evaluator
from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.catalog import load_suite
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals import RunConfig, RunFolder, Summary, choose_tasks, progress, run_eval
from fastkernels_gym.executor.evaluator import Device, resolve_device
from fastkernels_gym.prompts import prompt_version
from fastkernels_gym.request import EvalRequest
from fastkernels_gym.results import Measure, RewardKind


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The command line of `fk-gym eval`."""

    agent: str
    llm: str | None
    base_url: str | None
    patterns: tuple[str, ...]
    suite: str
    turns: int
    samples: int
    measure: Measure
    reward: RewardKind | None
    budget_s: float
    device: Device
    out: Path | None
    resume: bool
    allow_unsandboxed: bool


def evaluate(options: EvalOptions) -> tuple[Path, Summary]:
    """Runs an evaluation, or what is missing of one, and returns its folder and metrics.

    Raises:
        UserError: on options that do not exist or do not fit together, before anything runs.
    """
    EvalRequest("", "", options.measure, options.reward, options.budget_s)
    if options.resume and options.out is None:
        raise UserError("--resume continues the run in a folder: name it with --out")
    if min(options.turns, options.samples) < 1:
        raise UserError("--turns and --samples are at least 1")
    device = resolve_device(options.device)
    agent = resolve_agent(
        options.agent,
        AgentOptions(llm=options.llm, base_url=options.base_url, device=device, turns=options.turns),
    )
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
        prompts=prompt_version() if agent.llm else "",
        suite="" if options.patterns else load_suite(options.suite, device).id,
    )
    path = options.out or _new_folder(agent.name)
    with (
        RunFolder(path, config, resume=options.resume) as folder,
        Evaluator(device=device, allow_unsandboxed=options.allow_unsandboxed) as evaluator,
        progress(config) as report,
    ):
        of = f" of {config.suite}" if config.suite else ""
        print(f"{agent.name} on {len(config.tasks)} tasks{of}, {device}; run folder {path}", file=sys.stderr)
        return path, run_eval(agent, evaluator, folder, report=report)


def _new_folder(agent: str) -> Path:
    slug = re.sub(r"[^\w.-]+", "-", agent).strip("-")
    return Path("runs", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{slug}")
