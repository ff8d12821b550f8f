"""Metrics as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from fastkernels_gym.evals.bootstrap import Mean
from fastkernels_gym.evals.compare import Comparison, Standing
from fastkernels_gym.evals.metrics import Summary


def summary_table(summary: Summary, remarks: Sequence[str] = ()) -> Table:
    """Correct, fast_1 and geometric mean speedups of each level; speedups are over correct kernels only.

    Args:
        summary: of the run.
        remarks: lines to stand below the table.
    """
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
    counted = [f"{summary.turns} turns: {', '.join(notes)}"] if notes else []
    table.caption = Text("\n").join(map(printable, [*counted, *remarks])) if notes or remarks else None
    table.caption_justify = "left"
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Two runs on their common tasks; a change whose interval excludes none is marked."""
    title = f"{comparison.second} against {comparison.first}, {comparison.tasks} common tasks"
    table = Table(title=printable(title), title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in (comparison.first, comparison.second, "change"):
        table.add_column(printable(name), justify="right", overflow="fold")
    for row in comparison.differences:
        shown = times if row.ratio else share
        change = times(row.change) if row.ratio else _points(row.change)
        table.add_row(row.metric, shown(row.first), shown(row.second), change + (" *" if row.significant else ""))
    notes = ["* beyond chance: the paired 95 % interval excludes no change"]
    notes += [f"run differently: {'; '.join(comparison.settings)}"] if comparison.settings else []
    table.caption, table.caption_justify = Text("\n").join(map(printable, notes)), "left"
    return table


def leaderboard_table(standings: Sequence[Standing]) -> Table:
    """A ranking; runs of other tasks, devices or settings are not comparable, so those are shown."""
    table = Table(title="By fast_1, then by the operator's speedup; a failure counts as 1x", title_justify="left")
    table.add_column("", justify="right")
    for name in ("run", "agent", "LLM", "on"):
        table.add_column(name, overflow="fold")
    for name in ("tasks", "correct", "fast_1", "fast_1 e2e", "operator", "model", "tokens a correct kernel"):
        table.add_column(name, justify="right")
    for place, standing in enumerate(standings, 1):
        config, summary = standing.run.config, standing.summary
        overall = summary.overall
        assert overall is not None
        extent = f"{overall.tasks} x {config.samples} x {config.turns}" + (" *" if summary.missing else "")
        names = (standing.run.name, config.agent, ", ".join(standing.llms) or config.llm or "-", config.device)
        table.add_row(
            str(place),
            *map(printable, names),
            extent,
            share(overall.correct),
            share(overall.fast_p[1.0]),
            share(overall.fast_p_e2e.get(1.0)),
            times(overall.op_speedup_all),
            times(overall.e2e_speedup_all),
            f"{summary.per_correct.tokens:,.0f}" if summary.per_correct else "-",
        )
    table.caption = "tasks x samples x turns" + ("; * not whole" if any(s.summary.missing for s in standings) else "")
    table.caption_justify = "left"
    return table


def printable(text: str) -> Text:
    """Text that a server may have written, without what a terminal or rich's markup would obey."""
    return Text("".join(c if c.isprintable() else "?" for c in text))


def _points(mean: Mean) -> str:
    """A difference of shares, in percentage points."""
    found = f"{100 * mean.value:+.1f}"
    return found + (f" [{100 * mean.ci95[0]:+.1f}, {100 * mean.ci95[1]:+.1f}]" if mean.ci95 else "")


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
