"""Evaluators for the catalogue, and the table of how its attacks end.

pytest tests/redteam --redteam-table docs/redteam.md
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from catalogue import NO_CANDIDATE, Submission, canaries, find, submit

import fastkernels_gym as fk
from fastkernels_gym.request import Deadlines

# A secret that every process of the host may read, set before any evaluator starts.
os.environ["FASTKERNELS_REDTEAM_TOKEN"] = "secret"

Row = tuple[int, str, str, str, str, str]
_ROWS = pytest.StashKey[list[Row]]()
_WARM = pytest.StashKey[list[fk.Evaluator]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redteam-table", type=Path, default=None, help="write how each attack ended to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS], config.stash[_WARM] = [], []


@pytest.fixture(scope="session")
def strict_evaluator() -> Iterator[fk.Evaluator]:
    """Short deadlines, and players that interpret Triton."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with fk.Evaluator("cpu", deadlines=Deadlines(build_s=4, run_s=4)) as evaluator:
            yield evaluator


@pytest.fixture(scope="session")
def gpu_evaluator() -> Iterator[fk.Evaluator]:
    with fk.Evaluator("cuda", deadlines=Deadlines(build_s=120, run_s=20)) as evaluator:
        yield evaluator


@pytest.fixture(scope="session")
def _bait() -> Iterator[None]:
    with canaries():
        yield


@pytest.fixture
def evaluator_for(request: pytest.FixtureRequest, _bait: None) -> Callable[[Submission], fk.Evaluator]:
    """The evaluator that a submission needs, warm."""

    def choose(one: Submission) -> fk.Evaluator:
        name = "strict_evaluator" if one.hurried or one.interpret else "evaluator"
        evaluator: fk.Evaluator = request.getfixturevalue("gpu_evaluator" if one.device == "cuda" else name)
        warm = request.config.stash[_WARM]
        if evaluator not in warm:
            submit(evaluator, find("reference"))
            warm.append(evaluator)
        return evaluator

    return choose


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[Submission, str, float, list[str]], None]:
    """Puts an attack's end into the table. A reward's own digits are the machine's: the table says what they mean."""

    def write(attack: Submission, verdict: str, reward: float, wrong: list[str]) -> None:
        paid = "0" if reward == 0 else "above 1" if any(w.startswith("paid") for w in wrong) else "at most 1"
        row = (attack.row, attack.name, attack.idea, verdict, paid, "no: " + "; ".join(wrong) if wrong else "yes")
        request.config.stash[_ROWS].append(row)

    return write


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--redteam-table", default=None)
    if path is not None:
        path.write_text(_table(sorted(session.config.stash[_ROWS])), encoding="utf-8")


def _table(rows: list[Row]) -> str:
    lines = [
        "# How each known attack ends",
        "",
        "Written by `pytest tests/redteam --redteam-table docs/redteam.md`; sources: `tests/redteam/attacks/`.",
        "Contained: nothing is paid for speed that is not there, the referee lives, no process, file or descriptor is",
        "left, nothing is read that is not the player's, and the next honest kernel is judged right. Attacks that need",
        f"a GPU are in the table of a run that has one. `{NO_CANDIDATE}`: the reply holds no candidate.",
        "",
        "| row | attack | idea | verdict | reward | contained |",
        "|--:|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
