"""The agent `replay:RUN`: submits again what an earlier run submitted, turn by turn, and asks no LLM.

For measuring an old run's kernels on another device, or with another measure, reward or version of the gym.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.catalog import Task
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.rollout import read_rollout, read_rollouts


class ReplayAgent:
    """Submits `RUN`'s candidate of the same task, sample and turn.

    Only where each turn lies in the file is kept in memory.

    Args:
        path: a run folder.

    Raises:
        UserError: if it is none.
        RunFolderError: if it is damaged.
    """

    llm = None

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = f"replay:{path}"
        self._journal = self._path / "rollouts.jsonl"
        if not self._journal.is_file():
            raise UserError(f"agent 'replay' finds no run in {path}: it has no rollouts.jsonl")
        turns = read_rollouts(self._journal)
        self._places = {(turn.task, turn.sample, turn.turn): place for place, turn in turns}

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        place = self._places.get((task.id, sample, len(history)))
        if place is None:
            return Proposal(None, error=f"{self._path} has no turn {len(history)} of sample {sample}")
        return self._read(place)

    async def aclose(self) -> None:
        pass

    def _read(self, place: int) -> Proposal:
        rollout = read_rollout(self._journal, place)
        if rollout.candidate_sha is None:
            return Proposal(None, rollout.reply, rollout.error)
        kernel = self._path / "kernels" / f"{rollout.candidate_sha}.py"
        try:
            # What is not UTF-8 is the evaluator's to judge.
            return Proposal(kernel.read_bytes().decode("utf-8", "surrogatepass"), rollout.reply)
        except OSError as error:
            raise UserError(f"agent 'replay' cannot read {kernel}: {error.strerror or error}") from error
