"""The share of its ceiling that each case reaches, one panel a phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

_COLOURS = {"copy": "#4c78a8", "read": "#f58518", "matrix": "#54a24b"}
_OF = {"copy": "a copy of the same size", "read": "reads", "matrix": "matrix products"}


def plot(data: dict[str, Any], path: Path) -> list[Path]:
    """Draws a result file.

    Args:
        data: the file's content.
        path: the file; pictures go beside it, one a model.

    Returns:
        The pictures.
    """
    pictures = []
    for model in dict.fromkeys(row["model"] for row in data["rows"]):
        picture = path.with_name(f"{path.stem}-{model}.png")
        _draw(model, [row for row in data["rows"] if row["model"] == model], data["device"], picture)
        pictures.append(picture)
    return pictures


def _draw(model: str, rows: list[dict[str, Any]], device: str, picture: Path) -> None:
    names = list(dict.fromkeys(_name(row) for row in sorted(rows, key=lambda row: row["operator"])))
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    size = (3.2 + 2.3 * len(phases), 1.6 + 0.24 * len(names))
    figure, panels = pyplot.subplots(1, len(phases), sharey=True, squeeze=False, figsize=size, layout="constrained")
    for phase, axes in zip(phases, panels[0], strict=True):
        for row in (row for row in rows if row["phase"] == phase):
            at, share = names.index(_name(row)), row["share"]
            axes.barh(at, min(share, 1.2), color=_COLOURS[row["bound"]], height=0.7)
            axes.text(0.02, at, f"{row['us']:.4g} us", va="center", fontsize=7)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(title=phase if len(phase) < 24 else f"{phase[:22]}..", xlim=(0, 1.2), xlabel="share of the ceiling")
        axes.title.set_fontsize(9)
        axes.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=7)
    panels[0][0].set_ylim(len(names) - 0.4, -0.6)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in _COLOURS.values()]
    figure.legend(handles, [f"of {_OF[bound]}" for bound in _COLOURS], loc="outside upper right", ncols=3, fontsize=8)
    figure.suptitle(f"{model} on {device}", fontsize=11, x=0.01, ha="left")
    figure.savefig(picture, dpi=140)
    pyplot.close(figure)


def _name(row: dict[str, Any]) -> str:
    level, _, rest = row["operator"].partition("/")
    short = rest.rpartition(".")[2] if rest else level
    return f"{level + ' ' if rest else ''}{short} {row['label']}".strip()
