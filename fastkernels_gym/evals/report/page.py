"""One HTML file that holds a run: no server, no network, nothing in it acts but the script that we wrote.

Names, replies, errors, feedback and kernels come from LLMs, servers and players. Four things keep them text: templates
escape whatever they print; characters that hide or reorder others are printed as escapes; what the script reads is JSON
in which `<`, `>` and `&` do not occur, and it builds the page out of text nodes; and the page's policy runs one script
and one stylesheet, by their hashes, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.evals.archive import Run
from fastkernels_gym.evals.bootstrap import Mean
from fastkernels_gym.evals.folder import write_atomically
from fastkernels_gym.evals.metrics import summarise
from fastkernels_gym.evals.report.attempts import Attempts, Kernels, detail
from fastkernels_gym.evals.report.plots import HEIGHT, WIDTH, figures
from fastkernels_gym.evals.report.source import shown
from fastkernels_gym.evals.tally import Tally
from fastkernels_gym.results import Estimate

_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def write_report(run: Run, out: Path) -> None:
    """Writes a run's report.

    Args:
        run: an open run folder; it may still be written to.
        out: the HTML file.

    Raises:
        RunFolderError: if the run is empty or damaged, or the file cannot be written.
    """
    page = render(run).encode()
    try:
        write_atomically(out, page)
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror or error}") from error


def render(run: Run) -> str:
    """The report as HTML.

    Raises:
        RunFolderError: if the run is empty or damaged.
    """
    tally, attempts = Tally(), Attempts()
    for rollout in run.rollouts():
        tally.add(rollout)
        attempts.add(rollout)
    if not tally.turns:
        raise RunFolderError(f"{run.path} holds no turns yet")
    rows, kernels = attempts.rows(), Kernels(run)
    details = [script_data(detail(row, kernels)) for row in rows]
    style, script = _read("report.css"), _read("report.js")
    summary = summarise(tally, measure=run.config.measure, missing=run.config.missing(tally))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=run.name,
            config=run.config,
            llms=list(tally.llms),
            devices=list(tally.devices),
            summary=summary,
            figures=figures(summary, tally.best()),
            width=WIDTH,
            height=HEIGHT,
            rows=rows,
            details=details,
            kernels=[(sha, script_data(data)) for sha, data in kernels.data()],
            style=Markup(style),
            script=Markup(script),
            style_hash=_policy_hash(style),
            script_hash=_policy_hash(script),
        )
    )


def script_data(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or open a comment."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES))


def _policy_hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, ratio=_ratio, interval=_interval, estimate=_estimate, count=_count)
    return environment


def _finalize(value: Any) -> Any:
    """What a template prints; text of ours is marked and stays as it is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _estimate(estimate: Estimate | None, trusted: bool = True) -> str:
    if estimate is None:
        return "-"
    low, high = estimate.ci95
    return f"{estimate.speedup:.3f}x [{low:.3f}, {high:.3f}]" + ("" if trusted else " ?")


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}"


def _percent(mean: Mean | None) -> str:
    return "-" if mean is None else f"{mean.value:.0%}"


def _ratio(mean: Mean | None) -> str:
    return "-" if mean is None else f"{mean.value:.3f}x"


def _interval(mean: Mean, shares: bool) -> str:
    low, high = mean.ci95 or (mean.value, mean.value)
    return f"{low:.0%} to {high:.0%}" if shares else f"{low:.3f} to {high:.3f}"
