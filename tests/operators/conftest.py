import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

Interpreted = Callable[..., tuple[Any, tuple[Any, ...]]]


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Interpreted]:
    """Calls `<L1 file>.<function>` with Triton's interpreter; gives its result and its arguments as they are after.

    In a process of its own: here, and in what forks from here, kernels stay compiled ones.
    """
    ours, theirs = Pipe()
    script = str(Path(__file__).with_name("interpreter.py"))
    server = subprocess.Popen(
        [sys.executable, script, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    theirs.close()

    def call(name: str, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        buffer = io.BytesIO()
        torch.save((name, arguments), buffer)
        ours.send_bytes(buffer.getvalue())
        result, after, error = torch.load(io.BytesIO(ours.recv_bytes()), weights_only=False)
        assert not error, error
        return result, after

    yield call
    ours.close()
    server.wait(timeout=60)
