"""The agent `file:PATH`: submits kernels that lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.catalog import Task
from fastkernels_gym.errors import UserError


class FileAgent:
    """Submits `PATH/L1/rms_norm.py` for `L1/rms_norm`, and so on; a file stands for every task.

    Args:
        path: a folder, or one file.

    Raises:
        UserError: if there is neither.
    """

    llm = None

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.exists():
            raise UserError(f"agent 'file' finds no {path}")
        self._path = path
        self.name = f"file:{path}"

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        path = self._find(task)
        if path is None:
            return Proposal(None, error=f"no {self._path}/{task.operator.id}.py")
        try:
            # What is not UTF-8 is the evaluator's to judge.
            return Proposal(path.read_bytes().decode("utf-8", "surrogateescape"))
        except OSError as error:
            return Proposal(None, error=f"cannot read {path}: {error.strerror or error}")

    async def aclose(self) -> None:
        pass

    def _find(self, task: Task) -> Path | None:
        """The operator's file; else that of its family, which may define several operators."""
        if self._path.is_file():
            return self._path
        names = (task.operator.id, task.operator.family)
        return next((path for name in names if (path := self._path / f"{name}.py").is_file()), None)
