"""The command `fk-gym eval`: its options, what it prints, how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import typer

from fastkernels_gym.cli import options as opt
from fastkernels_gym.cli.status import INFRASTRUCTURE, LIMIT

if TYPE_CHECKING:
    from fastkernels_gym.cli.evaluation import EvalOptions
    from fastkernels_gym.executor.evaluator import Device as DeviceName
    from fastkernels_gym.results import Measure, RewardKind


def eval_(
    agent: opt.AgentName,
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    temperature: opt.Temperature = None,
    seed: opt.Seed = None,
    reply_tokens: opt.ReplyTokens = None,
    llm_device: opt.LLMDevice = None,
    llm_concurrency: opt.LLMConcurrency = 8,
    rpm: opt.Rpm = None,
    tpm: opt.Tpm = None,
    prices: opt.PriceFile = None,
    prompt_dir: opt.PromptDir = None,
    tasks: opt.Tasks = None,
    suite: opt.Suite = "smoke",
    turns: opt.Turns = 1,
    samples: opt.Samples = 1,
    dry_run: opt.DryRun = False,
    max_cost: opt.MaxCost = None,
    max_tokens: opt.MaxTokens = None,
    max_time: opt.MaxTime = None,
    measure: opt.MeasureName = "e2e",
    reward: opt.RewardName = None,
    budget: opt.Budget = 10.0,
    device: opt.Device = "auto",
    out: opt.Out = None,
    resume: opt.Resume = False,
    as_json: opt.Json = False,
    allow_unsandboxed: opt.Unsandboxed = False,
) -> None:
    """Evaluate an agent.

    Progress goes to standard error, the result to standard output, every turn to the run folder. Exits 3 if turns were
    lost to infrastructure, 4 if a limit ended the run: --resume runs what is missing, with a higher limit.
    """
    from fastkernels_gym.baselines import AgentOptions
    from fastkernels_gym.cli.evaluation import EvalOptions
    from fastkernels_gym.evals import Limits

    chosen = EvalOptions(
        agent=agent,
        told=AgentOptions(model, base_url, temperature, seed, reply_tokens, rpm, tpm, llm_device),
        llm_concurrency=llm_concurrency,
        prices=prices,
        prompt_dir=prompt_dir,
        patterns=tuple(filter(None, (tasks or "").split(","))),
        suite=suite,
        turns=turns,
        samples=samples,
        limits=Limits(max_cost, max_tokens, max_time),
        measure=cast("Measure", measure),
        reward=cast("RewardKind | None", reward),
        budget_s=budget,
        device=cast("DeviceName", device),
        out=out,
        resume=resume,
        allow_unsandboxed=allow_unsandboxed,
    )
    if dry_run:
        _show_plan(chosen, as_json)
    else:
        _run(chosen, as_json)


def _show_plan(chosen: EvalOptions, as_json: bool) -> None:
    from fastkernels_gym.cli import tables
    from fastkernels_gym.cli.evaluation import plan

    found = plan(chosen)
    if as_json:
        tables.print_json(found.to_dict())
    else:
        tables.print_plan(found)


def _run(chosen: EvalOptions, as_json: bool) -> None:
    from fastkernels_gym.cli import tables
    from fastkernels_gym.cli.evaluation import evaluate
    from fastkernels_gym.evals import summary_table

    folder, summary, account = evaluate(chosen)
    if as_json:
        named = {"agent": chosen.agent, "llm": chosen.told.llm, "folder": str(folder)}
        tables.print_json({**named, **summary.to_dict(), **account.to_dict()})
    else:
        tables.stdout().print(summary_table(summary, account.notes()))
        print(f"run folder: {folder}")
    if account.ended_by:
        raise typer.Exit(LIMIT)
    if summary.lost or summary.missing:
        raise typer.Exit(INFRASTRUCTURE)
