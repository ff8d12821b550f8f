"""A run's metrics as a table, by level."""

from __future__ import annotations

from rich.table import Table

from fastkernels_gym.evals.bootstrap import Mean
from fastkernels_gym.evals.metrics import Summary


def summary_table(summary: Summary) -> Table:
    """Correct, fast_1 and geometric mean speedups of each level; speedups are over correct kernels only."""
    table = Table(title="By level; speedups are geometric means over correct kernels", title_justify="left")
    table.add_column("level", no_wrap=True)
    for name in ("tasks", "correct", "fast_1", "fast_1 e2e", "operator", "end to end"):
        table.add_column(name, justify="right")
    for row in summary.levels:
        table.add_row(
            row.name,
            str(row.tasks),
            share(row.correct),
            share(row.fast_p[1.0]),
            share(row.fast_p_e2e.get(1.0)),
            times(row.op_speedup),
            times(row.e2e_speedup),
            end_section=row is summary.levels[-2] if len(summary.levels) > 1 else False,
        )
    notes = [f"{count} {verdict}" for verdict, count in summary.verdicts.items()]
    notes += [f"{summary.lost} lost to infrastructure"] if summary.lost else []
    notes += [f"{summary.missing} samples not run"] if summary.missing else []
    table.caption = f"{summary.turns} turns: {', '.join(notes)}" if notes else None
    table.caption_justify = "left"
    return table


def share(mean: Mean | None) -> str:
    """A share with its interval, in percent."""
    if mean is None:
        return "-"
    return f"{mean.value:.0%}" + (f" [{mean.ci95[0]:.0%}, {mean.ci95[1]:.0%}]" if mean.ci95 else "")


def times(mean: Mean | None) -> str:
    """A speedup with its interval."""
    if mean is None:
        return "-"
    return f"{mean.value:.3f}x" + (f" [{mean.ci95[0]:.3f}, {mean.ci95[1]:.3f}]" if mean.ci95 else "")
