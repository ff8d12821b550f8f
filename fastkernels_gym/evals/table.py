"""A run's metrics as a table, by level."""

from __future__ import annotations

from rich.table import Table

from fastkernels_gym.evals.metrics import Summary


def summary_table(summary: Summary) -> Table:
    """Correct, fast_1 and geometric mean speedups of each level; speedups are over correct kernels only."""
    table = Table(title="By level; speedups are geometric means over correct kernels", title_justify="left")
    table.add_column("level", no_wrap=True)
    for name in ("tasks", "correct", "fast_1", "fast_1 e2e", "operator", "end to end"):
        table.add_column(name, justify="right")
    for row in summary.levels:
        table.add_row(
            row.level,
            str(row.tasks),
            f"{row.correct:.0%}",
            f"{row.fast_p[1.0]:.0%}",
            f"{row.fast_p_e2e[1.0]:.0%}",
            _times(row.op_speedup),
            _times(row.e2e_speedup),
            end_section=row is summary.levels[-2] if len(summary.levels) > 1 else False,
        )
    notes = [f"{count} {verdict}" for verdict, count in summary.verdicts.items()]
    notes += [f"{summary.lost} lost to infrastructure"] if summary.lost else []
    notes += [f"{summary.missing} samples not run"] if summary.missing else []
    table.caption = f"{summary.turns} turns: {', '.join(notes)}" if notes else None
    table.caption_justify = "left"
    return table


def _times(speedup: float | None) -> str:
    return "-" if speedup is None else f"{speedup:.3f}x"
