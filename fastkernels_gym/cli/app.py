"""The commands of `fk-gym`, and how they end.

Nothing heavy is imported before a command runs, so that `fk-gym --help` and a mistyped option answer at once.

| status | meaning |
|---|---|
| 0 | done; of `check`: a verdict was reached, whichever |
| 2 | bad input: one line on standard error says what there is |
| 3 | infrastructure failure: the machine's fault or ours, not the candidate's; of `eval`: some turns were lost to it |
| 4 | of `eval`: a limit ended the run, which can be resumed with a higher one |
| 130 | interrupted |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from fastkernels_gym.cli.eval_command import eval_
from fastkernels_gym.cli.options import (
    Budget,
    Device,
    Json,
    MeasureName,
    RewardName,
    RunFolderName,
    TaskName,
    Unsandboxed,
)
from fastkernels_gym.cli.selftest_command import selftest
from fastkernels_gym.cli.status import BAD_INPUT, INFRASTRUCTURE, INTERRUPTED
from fastkernels_gym.errors import HarnessFault, UserError

if TYPE_CHECKING:
    from fastkernels_gym.executor.evaluator import Device as DeviceName
    from fastkernels_gym.results import Measure, RewardKind

app = typer.Typer(
    name="fk-gym",
    help="A gym where agents are paid for GPU kernels that make real models faster.",
    epilog="A task is <operator>@<model>, where wanted with +tp<N>, :<workload> and /<phase> behind it, such as "
    "L1/rms_norm@llama-3.1-8b:chat/decode.",
    add_completion=False,
    rich_markup_mode="rich",  # for the panels; no help text holds a bracket
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Operators, or operators@models; globs match.")] = "*",
    as_json: Json = False,
) -> None:
    """Show operators by models, with case counts.

    A case is a distinct call shape that the model makes of the operator.
    """
    from fastkernels_gym.catalog import list_tasks, load_task
    from fastkernels_gym.cli import tables

    tasks = [load_task(task_id) for task_id in list_tasks(pattern)]
    if as_json:
        tables.print_json({"tasks": [tables.task_row(task) for task in tasks]})
    else:
        tables.stdout().print(tables.task_matrix(tasks))


@app.command()
def show(
    task: TaskName,
    baseline: Annotated[bool, typer.Option("--baseline", help="Show the production implementation too.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show a task as an agent gets it.

    The reference implementation, and the shapes that the model calls it with.
    """
    from fastkernels_gym.catalog import load_task
    from fastkernels_gym.cli import tables
    from fastkernels_gym.device import device_facts
    from fastkernels_gym.executor.evaluator import resolve_device
    from fastkernels_gym.prompts import Prompts

    loaded = load_task(task)
    seen = loaded.observation(show_baseline=baseline)
    shapes = json.loads(seen.shapes)
    if as_json:
        prompt = Prompts().task(loaded, seen, device=device_facts(resolve_device(device)))
        tables.print_json({"task": seen.task, "prompt": prompt, "reference": seen.reference, "shapes": shapes})
    else:
        tables.print_observation(tables.stdout(), seen.task, seen.reference, shapes)


@app.command()
def graph(task: TaskName, as_json: Json = False) -> None:
    """Show what a replacement reaches.

    The operators that use this one, up to the model, and the share of its calls that each of them makes.
    """
    from fastkernels_gym.catalog import load_task, rungs
    from fastkernels_gym.cli import tables

    loaded = load_task(task)
    ladder = rungs(loaded)
    if as_json:
        rows = [{"operator": rung.operator.id, "calls": rung.calls, "share": rung.share} for rung in ladder]
        tables.print_json({"task": loaded.id, "operator": loaded.operator.id, "rungs": rows})
    else:
        tables.stdout().print(tables.ladder_table(loaded, ladder))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The candidate: a module that defines the class.")],
    task: Annotated[str, typer.Option(metavar="TASK", help="Task id, such as L1/rms_norm@tiny-llama.")],
    device: Device = "auto",
    measure: MeasureName = "e2e",
    reward: RewardName = None,
    budget: Budget = 10.0,
    as_json: Json = False,
    allow_unsandboxed: Unsandboxed = False,
) -> None:
    """Judge one candidate.

    Whether it is correct, and how much faster its operator, its ladder and the full model are. Exits 0 whatever the
    verdict, 3 if the infrastructure failed.
    """
    from fastkernels_gym import EvalRequest, Evaluator, Verdict
    from fastkernels_gym.cli import tables

    request = EvalRequest(task, _read_source(file), cast("Measure", measure), cast("RewardKind | None", reward), budget)
    with Evaluator(cast("DeviceName", device), allow_unsandboxed=allow_unsandboxed) as evaluator:
        evaluation = evaluator.submit(request).result()
    if as_json:
        tables.print_json(evaluation.to_dict())
    else:
        tables.print_evaluation(tables.stdout(), evaluation)
    if evaluation.verdict is Verdict.INFRA_ERROR:
        raise typer.Exit(INFRASTRUCTURE)


app.command("eval")(eval_)


@app.command()
def report(
    run: RunFolderName,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; else report.html in the run folder.")
    ] = None,
) -> None:
    """Write a run as one HTML page.

    Metrics, figures, every task with its kernels, feedback and timings; the file needs no server and no network.
    """
    from fastkernels_gym.evals.archive import read_run
    from fastkernels_gym.evals.report import write_report

    path = out or run / "report.html"
    write_report(read_run(run), path)
    print(path)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, the first being compared against.")
    ],
    as_json: Json = False,
) -> None:
    """Compare runs on the tasks that they share.

    Intervals are paired: tasks are resampled with both runs' results.
    """
    from fastkernels_gym.cli import tables
    from fastkernels_gym.evals.archive import read_run
    from fastkernels_gym.evals.compare import compare_runs
    from fastkernels_gym.evals.table import comparison_table

    comparisons = compare_runs([read_run(run) for run in runs])
    if as_json:
        tables.print_json({"comparisons": [comparison.to_dict() for comparison in comparisons]})
    else:
        for comparison in comparisons:
            tables.stdout().print(comparison_table(comparison))


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds run folders, at any depth.")],
    as_json: Json = False,
) -> None:
    """Rank the runs below a folder.

    By the share of tasks whose operator is proven faster; runs that cannot be read are named on standard error.
    """
    from fastkernels_gym.cli import tables
    from fastkernels_gym.evals.compare import rank_runs
    from fastkernels_gym.evals.table import leaderboard_table

    standings = rank_runs(folder, damaged=lambda why: print(f"fk-gym: left out: {why}", file=sys.stderr))
    if as_json:
        tables.print_json({"runs": [standing.to_dict() for standing in standings]})
    else:
        tables.stdout().print(leaderboard_table(standings))


app.command()(selftest)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show libraries, GPUs, self-tests and the sandbox of this machine.

    Exits 3 where candidates cannot run.
    """
    from fastkernels_gym.cli import tables
    from fastkernels_gym.cli.health import examine

    health = examine()
    if as_json:
        tables.print_json(health.to_dict())
    else:
        tables.print_health(tables.stdout(), health)
    if not health.sandboxed:
        raise typer.Exit(INFRASTRUCTURE)


def main() -> NoReturn:
    """Runs the command line of this process and exits with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; the only place where errors become exit statuses.

    Any exception but ours is a bug, and keeps its traceback.
    """
    try:
        status = int(app(list(arguments) or ["--help"], prog_name="fk-gym", standalone_mode=False) or 0)
        return _fail("interrupted", status) if status == INTERRUPTED else status  # Typer catches Ctrl-C first
    except UserError as error:
        return _fail(error, BAD_INPUT)
    except HarnessFault as error:
        return _fail(error, INFRASTRUCTURE)
    except (KeyboardInterrupt, typer.Abort):  # as older releases of Typer have it
        return _fail("interrupted", INTERRUPTED)
    except _USAGE_ERROR as error:
        return _fail(error.format_message(), BAD_INPUT)


def _click_exception() -> Any:
    """The base of a mistyped command line's errors, which newer releases of Typer keep a copy of their own of."""
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


_USAGE_ERROR = _click_exception()


def _fail(error: object, status: int) -> int:
    line = " ".join(str(error).split())
    print(f"fk-gym: {line}", file=sys.stderr)
    return status


def _read_source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
