"""The command `fk-gym selftest`: its options, what it prints, how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fastkernels_gym.cli.options import Budget, Device, Json, Unsandboxed

if TYPE_CHECKING:
    from fastkernels_gym.executor.evaluator import Device as DeviceName
    from fastkernels_gym.executor.selftest import Run, SelfTest


def selftest(
    device: Device = "auto",
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN,PATTERN",
            help="Tasks by globs over their ids; else an operator of long calls, one of short calls, the full model.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each task.")] = 30,
    budget: Budget = 10.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result here as well.")] = None,
    as_json: Json = False,
    allow_unsandboxed: Unsandboxed = False,
) -> None:
    """Test the clock on this device.

    The baseline is judged against itself, by fresh players in every run. By how much equal players differ widens every
    later interval on this device, and what is paid must lie above the dead band. Ctrl-C keeps what was measured.
    """
    from fastkernels_gym.cli import tables
    from fastkernels_gym.errors import UserError
    from fastkernels_gym.executor.evaluator import Evaluator, resolve_device
    from fastkernels_gym.executor.selftest import SelfTest, chosen_tasks, self_test

    name = resolve_device(device)
    chosen = chosen_tasks(filter(None, (tasks or "").split(",")), name)
    if out is not None and not out.parent.is_dir():
        raise UserError(f"cannot write {out}: no folder {out.parent}")
    if not budget > 0:
        raise UserError(f"a budget is a positive number of seconds, not {budget}")
    test = SelfTest.start(name, budget)
    total = runs * len(chosen)
    try:
        with Evaluator(cast("DeviceName", name), allow_unsandboxed=allow_unsandboxed) as evaluator:
            for run in self_test(evaluator, chosen, runs, budget):
                test.add(run)
                print(f"{len(test.runs)}/{total} {_line(run)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        _keep(test, out, f"interrupted: {len(test.runs)} of {total} runs were made and are kept")
        raise
    _keep(test, out, "")
    if as_json:
        tables.print_json(test.to_dict())
    else:
        tables.print_selftest(tables.stdout(), test)


def _line(run: Run) -> str:
    if run.speedup is None or run.ci95 is None:
        return f"{run.task} {run.verdict}, {run.seconds:.0f} s"
    return f"{run.task} {run.speedup:.4f}x [{run.ci95[0]:.4f}, {run.ci95[1]:.4f}], {run.seconds:.0f} s"


def _keep(test: SelfTest, out: Path | None, remark: str) -> None:
    """Stores what there is, and says where it went."""
    from fastkernels_gym.errors import UserError

    if not test.figures:
        return
    print(f"{remark}{'; ' if remark else ''}stored in {test.store()}", file=sys.stderr)
    if out is not None:
        try:
            out.write_text(json.dumps(test.to_dict(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror or error}") from error
