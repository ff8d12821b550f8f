"""What all tests share: one evaluator, whose players are warm after the first evaluation."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch is imported, here and in the players: test processes and sandboxed players share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background jobs ignore interrupts, and so would the processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A secret of the host, there before any evaluator is: no player may see it.
os.environ["HOST_API_KEY"] = "sk-secret-of-the-host"

# No example is late: a machine that runs tests does other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

from fastkernels_gym import Evaluator  # noqa: E402
from fastkernels_gym.request import Deadlines  # noqa: E402


@pytest.fixture(scope="session")
def evaluator() -> Iterator[Evaluator]:
    with Evaluator(device="cpu") as shared:
        yield shared


@pytest.fixture(scope="session")
def _short_deadlines() -> Iterator[Evaluator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        evaluator = Evaluator("cpu", deadlines=Deadlines(build_s=4, run_s=4))
    with evaluator:
        yield evaluator


@pytest.fixture
def strict_evaluator(_short_deadlines: Evaluator, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """Short deadlines, and players that interpret Triton; its tests are marked as one xdist group, `strict`.

    Only at its start and during its own tests: an evaluator hands the variable to each process that it starts.
    """
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return _short_deadlines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
