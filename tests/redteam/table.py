"""The table of how each known attack, and each honest kernel, ended: made of what runs on each device have found.

python tests/redteam/table.py docs/redteam.md

A run of the tests (`--redteam-table`) notes its ends in benchmarks/results/redteam-<device>.json, over those of the
same attacks there, and then does the same. Attacks that no run has met are listed as such.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
from catalogue import NO_CANDIDATE, Submission, attacks, honest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
DEVICES = ("cpu", "cuda")
_HEAD = f"""# How each known attack ends

Made by `pytest tests/redteam -n 0 --redteam-table docs/redteam.md` of what runs have found, which lies in
`benchmarks/results/redteam-<device>.json`; `python tests/redteam/table.py docs/redteam.md` makes it again. The sources
are `tests/redteam/attacks/` and `tests/redteam/honest/`; why they end so is told in
[Why the clock cannot be forged](explanation/clock.md). An attack is contained when nothing is paid for speed that is
not there, the referee lives, no process, file or descriptor is left, nothing is read that is not the player's, and the
next honest kernel is judged right. `{NO_CANDIDATE}`: the reply holds no candidate."""


@dataclass(frozen=True, slots=True)
class End:
    """How one submission ended on one device.

    Args:
        name: the submission's.
        verdict: the last one, where it was submitted several times.
        reward: `0`, `at most 1`, or `above 1`, where it was paid; a reward's own digits are the machine's.
        wrong: what was not as it must be; empty where it was contained, or accepted.
        device: the device's name.
        date: of the run.
        commit: what was checked out.
    """

    name: str
    verdict: str
    reward: str
    wrong: tuple[str, ...]
    device: str
    date: str
    commit: str


def note(ends: Iterable[End], device: str) -> None:
    """Adds the ends of a run to what the device's file holds; the file says with which versions it was last written."""
    known = {end.name: end for end in [*read(device), *ends]}
    data = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "ends": [asdict(known[one.name]) for one in [*attacks(), *honest()] if one.name in known],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    _path(device).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read(device: str) -> list[End]:
    """What runs on a device have found."""
    if not _path(device).exists():
        return []
    return [End(**{**end, "wrong": tuple(end["wrong"])}) for end in json.loads(_path(device).read_text())["ends"]]


def stamp() -> tuple[str, str]:
    """The day and the commit, as in any record of the benchmarks, whose folder is on the path of tests alone."""
    from provenance import provenance

    found = provenance()
    return str(found["date"]), str(found["commit"] or "unknown")


def render() -> str:
    """The page."""
    found = {device: {end.name: end for end in read(device)} for device in DEVICES}
    bad, good = list(attacks()), list(honest())
    ends = {one.name: [found[device].get(one.name) for device in DEVICES] for one in [*bad, *good]}
    parts = [_HEAD, _summary(bad, good, ends)]
    parts.append(_rows(["row", "attack", "idea", *_COLUMNS], [(str(a.row), a, ends[a.name]) for a in bad]))
    parts.append("## Honest kernels\n\nAll of these must be accepted.")
    parts.append(_rows(["kernel", "idea", *_COLUMNS], [("", kernel, ends[kernel.name]) for kernel in good]))
    return "\n\n".join(parts) + "\n"


_COLUMNS = ("device", "verdict", "reward", "as it must be")


def _summary(bad: Sequence[Submission], good: Sequence[Submission], ends: dict[str, list[End | None]]) -> str:
    """What the tables add up to, and when they were measured."""
    met = [[end for end in ends[one.name] if end] for one in bad]
    escaped = sum(any(end.wrong for end in of_one) for of_one in met)
    accepted = [[end for end in ends[one.name] if end] for one in good]
    refused = sum(any(end.wrong for end in of_one) for of_one in accepted)
    lines = [
        f"{len(bad)} attacks on {len({one.row for one in bad})} rows of the catalogue: {sum(map(bool, met))} run, "
        f"{escaped} not contained. {len(good)} honest kernels: {sum(map(bool, accepted))} run, {refused} rejected."
    ]
    for place, device in enumerate(DEVICES):
        if of_device := [end for found in ends.values() if (end := found[place])]:
            dates = sorted({end.date for end in of_device})
            names = ", ".join(sorted({end.device for end in of_device} - {""}))
            lines.append(f"Last run on {device} ({names}): {dates[-1]}, {len(of_device)} submissions.")
    return "\n".join(lines)


def _rows(head: Sequence[str], rows: Iterable[tuple[str, Submission, list[End | None]]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for number, one, found in rows:
        about = [number] * bool(number) + [one.name, one.idea]
        ends = [(device, end) for device, end in zip(DEVICES, found, strict=True) if end]
        for device, end in ends:
            right = "no: " + "; ".join(end.wrong) if end.wrong else "yes"
            lines.append(_line([*about, device, end.verdict, end.reward, right]))
        if not ends:
            why = "it needs a GPU" if one.device == "cuda" else "it is new"
            lines.append(_line([*about, one.device, "", "", f"not run yet: {why}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _path(device: str) -> Path:
    return RESULTS / f"redteam-{device}.json"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
