"""One zygote for all tests that hold sessions of their own: it takes longer to start than their sessions do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastkernels_gym.referee.players import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    found = Zygote("cpu")
    yield found
    found.close()
