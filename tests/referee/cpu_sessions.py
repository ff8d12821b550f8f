"""A model's session on the CPU, with players of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastkernels_gym.catalog import Task
from fastkernels_gym.referee.players import Zygote
from fastkernels_gym.referee.session import Session
from fastkernels_gym.request import Deadlines


@contextmanager
def cpu_session(task: Task, zygote: Zygote) -> Iterator[Session]:
    """The session of a task; within it torch computes no gradients, as in the referee."""
    with torch.no_grad():
        found = Session(task, torch.device("cpu"), zygote, 1, Deadlines())
        yield found
        found.close()
