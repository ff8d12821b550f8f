"""Progress on standard error, a line for what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastkernels_gym.evals.folder import RunConfig
from fastkernels_gym.evals.rollout import Rollout


@contextmanager
def progress(config: RunConfig) -> Iterator[Callable[[Rollout], None]]:
    """A bar over a run's turns; what it yields is told of each turn that ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, highlight=False)
    total = len(config.tasks) * config.samples * config.turns
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("turns", total=total)

        def report(rollout: Rollout) -> None:
            if not rollout.lost:
                bar.advance(shown)
            bar.console.print(escape(_line(rollout)))

        yield report


def _line(rollout: Rollout) -> str:
    evaluation = rollout.evaluation
    name = f"{rollout.task} #{rollout.sample}.{rollout.turn}"
    if evaluation is None:
        return f"{name}: no candidate: {rollout.error or 'none given'}"
    paid = f", reward {evaluation.reward:.3f}" if evaluation.correct else ""
    return f"{name}: {evaluation.verdict}{paid} ({rollout.seconds:.1f} s)"
