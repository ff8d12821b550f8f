"""What all tests share: one evaluator, whose players are warm after the first evaluation."""

from collections.abc import Iterator

import pytest

from fastkernels_gym import Evaluator


@pytest.fixture(scope="session")
def evaluator() -> Iterator[Evaluator]:
    with Evaluator(device="cpu") as shared:
        yield shared
