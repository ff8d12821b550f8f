"""Holds a run's summary.json and its page against figures recomputed without the package (`recompute.py`)."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PARTS = {"op": ("fast_p", "op_speedup"), "e2e": ("fast_p_e2e", "e2e_speedup")}


def disagreements(run: Path) -> list[str]:
    """What of a run folder that has its report does not agree; nothing where all does."""
    script = Path(__file__).with_name("recompute.py")
    command = [sys.executable, str(script), str(run / "rollouts.jsonl")]
    figures = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    summary = json.loads((run / "summary.json").read_text())
    if not summary["levels"][-1]["fast_p_e2e"]:  # a run that measures operators; an L4 task's own is the model
        figures = {name: value for name, value in figures.items() if not name.startswith("e2e ")}
    said = dict(_summarised(summary, figures))
    wrong = [
        f"{name}: {figures[name]}, not {value}" for name, value in said.items() if abs(figures[name] - value) > 1e-9
    ]
    shown = _shown((run / "report.html").read_text())
    wrong += [f"{name} is not {text} on the page" for name, text in _printed(figures).items() if text not in shown]
    return wrong


def _summarised(summary: dict[str, Any], figures: dict[str, float]) -> Iterator[tuple[str, float]]:
    """The same figures as summary.json has them; of fewer samples than k there is no fast_p@k."""
    found = summary["levels"][-1]
    yield "tokens", summary["per_correct"]["tokens"]
    yield "seconds", summary["per_correct"]["seconds"]
    if found["roofline"] is not None:
        yield "roofline", found["roofline"]["value"]
    for part, (fast, speedup) in _PARTS.items():
        if f"{part} all" not in figures:
            continue
        yield f"{part} all", found[f"{speedup}_all"]["value"]
        yield f"{part} correct", found[speedup]["value"]
        for k, by_p in found[f"{fast}_at"].items():
            yield from ((f"{part} fast_{p}@{k}", at["value"]) for p, at in by_p.items())


def _shown(page: str) -> str:
    """The row of all tasks in the page's first table, and its cards, as a reader sees them."""
    cards = page[page.index('<dl class="cards">') : page.index("</dl>")]
    rows = re.findall(r'<tr><th scope="row">all</th>.*?</tr>', page, re.S)
    return " ".join(html.unescape(re.sub(r"<small>.*?</small>|<[^>]+>", " ", cards + rows[0])).split())


def _printed(figures: dict[str, float]) -> dict[str, str]:
    """Figures in the order and form in which the row of all tasks prints them."""
    row = [f"{figures[f'op fast_{p}@1']:.0%}" for p in (0.0, 1.0, 1.5, 2.0)]
    row += [f"{figures['op correct']:.3f}x", f"{figures['op all']:.3f}x"]
    if "e2e all" in figures:
        row += [f"{figures[f'e2e fast_{p}@1']:.0%}" for p in (1.0, 1.01, 1.05)]
        row += [f"{figures['e2e correct']:.3f}x", f"{figures['e2e all']:.3f}x"]
    if figures["roofline"] is not None:
        row.append(f"{figures['roofline']:.0%} (")
    return {"the row of all tasks": " ".join(row), "tokens": f"tokens a correct kernel {figures['tokens']:,.0f}"}
