"""Options and arguments that commands share, and the many of `eval` by what they concern."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Task id, such as L1/rms_norm@tiny-llama.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where candidates run.")]
MeasureName = Annotated[
    str, typer.Option(metavar="op|ladder|e2e", help="How far up to measure: the operator, the layers, the full model.")
]
RewardName = Annotated[
    str | None,
    typer.Option(
        metavar="e2e|op|log_e2e|headroom|lower_bound", help="What is paid; by default e2e where measured, else op."
    ),
]
Budget = Annotated[float, typer.Option(metavar="SECONDS", help="Seconds of timing an evaluation at the most.")]
RunFolderName = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as eval fills.")]
Unsandboxed = Annotated[bool, typer.Option("--allow-unsandboxed", help="Run candidates although there is no sandbox.")]

_LLM = "The LLM and its endpoint"
_WORK = "What is run"
_LIMITS = "Limits: what is in flight is finished, nothing new is started"
_FOLDER = "The run folder"

AgentName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="baseline, reference, compile, file:PATH, replay:RUN, gpt, best_of_n, refine, evolve, hf, or your own "
        "MODULE:CLASS.",
    ),
]
Model = Annotated[str | None, typer.Option(metavar="LLM", help="The LLM to ask.", rich_help_panel=_LLM)]
BaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The LLM's server; else OPENAI_BASE_URL, or OpenAI's own.", rich_help_panel=_LLM),
]
Temperature = Annotated[
    float | None, typer.Option(help="Of sampling, 0 to 2; else the LLM's own.", rich_help_panel=_LLM)
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Of sampling: every turn has one of its own, made of it. Sent to a server if given.", rich_help_panel=_LLM
    ),
]
ReplyTokens = Annotated[
    int | None, typer.Option(metavar="TOKENS", help="Of a reply at the most.", rich_help_panel=_LLM)
]
LLMDevice = Annotated[
    str | None,
    typer.Option(
        "--llm-device",
        metavar="cpu|cuda:N",
        help="Of agent hf; else a second GPU, or the CPU.",
        rich_help_panel=_LLM,
    ),
]
LLMConcurrency = Annotated[
    int, typer.Option("--llm-concurrency", help="Proposals asked for at once.", rich_help_panel=_LLM)
]
Rpm = Annotated[float | None, typer.Option(help="Requests a minute at the most.", rich_help_panel=_LLM)]
Tpm = Annotated[float | None, typer.Option(help="Tokens a minute at the most.", rich_help_panel=_LLM)]
PriceFile = Annotated[
    Path | None,
    typer.Option("--prices", metavar="FILE", help="Prices of LLMs, before the package's.", rich_help_panel=_LLM),
]
PromptDir = Annotated[
    Path | None,
    typer.Option(
        "--prompt-dir",
        metavar="DIR",
        help="Templates, in place of the package's of the same names.",
        rich_help_panel=_LLM,
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN,PATTERN", help="Tasks by globs over their ids, in place of a suite.", rich_help_panel=_WORK
    ),
]
Suite = Annotated[
    str,
    typer.Option(
        metavar="smoke|standard|full", help="Held-out tasks, as listed in a frozen manifest.", rich_help_panel=_WORK
    ),
]
Turns = Annotated[
    int, typer.Option(help="Candidates that an attempt has, with feedback in between.", rich_help_panel=_WORK)
]
Samples = Annotated[int, typer.Option(help="Independent attempts at each task.", rich_help_panel=_WORK)]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print every prompt and the calls planned; ask and judge nothing.", rich_help_panel=_WORK
    ),
]
MaxCost = Annotated[float | None, typer.Option(metavar="DOLLARS", help="Of the LLM's tokens.", rich_help_panel=_LIMITS)]
MaxTokens = Annotated[
    int | None, typer.Option(metavar="TOKENS", help="Prompt and completion tokens.", rich_help_panel=_LIMITS)
]
MaxTime = Annotated[float | None, typer.Option(metavar="SECONDS", help="Wall time.", rich_help_panel=_LIMITS)]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Run folder; else runs/<utc>-<agent>.", rich_help_panel=_FOLDER)
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.", rich_help_panel=_FOLDER)]
