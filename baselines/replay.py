"""The agent `replay:RUN`: submits again what an earlier run submitted, turn by turn, and asks no LLM.

For measuring an old run's kernels on another device, or with another measure, reward or version of the gym.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.catalog import Task
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals import Rollout


class ReplayAgent:
    """Submits `RUN`'s candidate of the same task, sample and turn.

    Only where each turn lies in the file is kept in memory.

    Args:
        path: a run folder.

    Raises:
        UserError: if it is none, or is damaged.
    """

    llm = None

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = f"replay:{path}"
        try:
            self._places = _index(self._path / "rollouts.jsonl")
        except OSError as error:
            raise UserError(f"agent 'replay' finds no run in {path}: {error.strerror or error}") from error

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        place = self._places.get((task.id, sample, len(history)))
        if place is None:
            return Proposal(None, error=f"{self._path} has no turn {len(history)} of sample {sample}")
        try:
            found = self._read(place)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"agent 'replay' cannot read {self._path}: {error}") from error
        return found

    async def aclose(self) -> None:
        pass

    def _read(self, place: int) -> Proposal:
        with (self._path / "rollouts.jsonl").open("rb") as file:
            file.seek(place)
            rollout = Rollout.from_dict(json.loads(file.readline()))
        if rollout.candidate_sha is None:
            return Proposal(None, rollout.reply, rollout.error)
        kernel = self._path / "kernels" / f"{rollout.candidate_sha}.py"
        # What is not UTF-8 is the evaluator's to judge.
        return Proposal(kernel.read_bytes().decode("utf-8", "surrogateescape"), rollout.reply)


def _index(path: Path) -> dict[tuple[str, int, int], int]:
    """Where the last outcome of each turn begins; what a kill left of the last line is no outcome.

    Raises:
        UserError: on a line that is no turn.
    """
    places: dict[tuple[str, int, int], int] = {}
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                turn = json.loads(line)
                places[str(turn["task"]), int(turn["sample"]), int(turn["turn"])] = place
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path}, line {number} is damaged: {error}") from error
            place += len(line)
    return places
