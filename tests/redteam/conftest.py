"""Evaluators for the catalogue, and the table of how its attacks end.

pytest tests/redteam -n 0 --redteam-table docs/redteam.md
pytest tests/redteam -n 0 --redteam-table docs/redteam.md -m gpu                  # what needs a GPU
pytest tests/redteam -n 0 --redteam-table docs/redteam.md --redteam-device cuda   # everything, on one
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import table
from catalogue import NO_CANDIDATE, Submission, canaries, find, submit
from table import End, stamp

import fastkernels_gym as fk
from fastkernels_gym.request import Deadlines

# A secret that every process of the host may read, set before any evaluator starts.
os.environ["FASTKERNELS_REDTEAM_TOKEN"] = "secret"

_ENDS = pytest.StashKey[dict[str, list[End]]]()
_WARM = pytest.StashKey[list[fk.Evaluator]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redteam-table", type=Path, default=None, help="write how each attack ended to this file")
    parser.addoption("--redteam-device", choices=["cpu", "cuda"], default=None, help="run all submissions on it")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ENDS], config.stash[_WARM] = {}, []


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
        name = "strict_evaluator" if one.strict else "evaluator"
        on_gpu = on_device(request.config, one) == "cuda"
        evaluator: fk.Evaluator = request.getfixturevalue("gpu_evaluator" if on_gpu else name)
        warm = request.config.stash[_WARM]
        if evaluator not in warm:
            submit(evaluator, find("reference"))
            warm.append(evaluator)
        return evaluator

    return choose


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[Submission, Sequence[fk.Evaluation], list[str]], None]:
    """Keeps how a submission ended, for the table."""

    def write(one: Submission, evaluations: Sequence[fk.Evaluation], wrong: list[str]) -> None:
        reward = evaluations[-1].reward if evaluations else 0.0
        paid = "0" if reward == 0 else "above 1" if any(w.startswith("paid") for w in wrong) else "at most 1"
        end = End(
            one.name,
            str(evaluations[-1].verdict) if evaluations else NO_CANDIDATE,
            (paid if one.row else "paid") if reward else "0",
            tuple(wrong),
            evaluations[-1].device if evaluations else "",
            *stamp(),
        )
        request.config.stash[_ENDS].setdefault(on_device(request.config, one), []).append(end)

    return write


def on_device(config: pytest.Config, one: Submission) -> str:
    """Where a submission runs: where it says, unless all are to run elsewhere."""
    chosen: str | None = config.getoption("--redteam-device", default=None)
    return chosen or one.device


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--redteam-table", default=None)
    if path is not None:
        for device, ends in session.config.stash[_ENDS].items():
            table.note(ends, device)
        path.write_text(table.render(), encoding="utf-8")
