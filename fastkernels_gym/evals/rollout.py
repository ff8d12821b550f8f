"""One turn of a run, and the file that turns are appended to: rollouts.jsonl, a JSON document a line.

What a kill, or a writer at work, left of the last line is no turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fastkernels_gym.agent import LLMFault, Usage
from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.results import Evaluation, Verdict


@dataclass(frozen=True, slots=True)
class Rollout:
    """One turn, as a line of rollouts.jsonl.

    `sample` and `turn` count from 0, `seconds` is the turn's wall time, `dollars` what its LLM calls cost where known,
    `elapsed` the seconds that the run had lasted when the turn ended, all sittings together.
    """

    key: str
    task: str
    sample: int
    turn: int
    agent: str
    llm: str | None = None
    candidate_sha: str | None = None
    evaluation: Evaluation | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str | None = None
    reply: str = ""
    dollars: float | None = None
    faults: tuple[LLMFault, ...] = ()
    elapsed: float = 0.0

    @property
    def lost(self) -> bool:
        """Whether infrastructure failed, the evaluator's or the LLM's server, so that the turn says nothing."""
        if self.evaluation is not None:
            return self.evaluation.verdict is Verdict.INFRA_ERROR
        if self.faults and self.faults[-1].is_result:
            return False
        return self.llm is not None and self.error is not None and not self.reply

    def to_json(self) -> bytes:
        """One line, its end included."""
        names = self.__dataclass_fields__
        data = {name: getattr(self, name) for name in names}
        evaluation = self.evaluation.to_dict() if self.evaluation else None
        document = {**data, "evaluation": evaluation, "usage": asdict(self.usage)}
        return json.dumps(document, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Reads what `to_json` gave.

        Raises:
            ValueError, TypeError, KeyError: if the line is no rollout.
        """
        data: Mapping[str, Any] = json.loads(line)
        found = data["evaluation"]
        evaluation = Evaluation.from_json(json.dumps(found)) if found is not None else None
        faults = tuple(LLMFault(fault) for fault in data.get("faults", ()))
        return cls(**{**data, "evaluation": evaluation, "usage": Usage(**data["usage"]), "faults": faults})


def read_rollouts(path: Path) -> Iterator[tuple[int, Rollout]]:
    """Where each turn begins in the file, and the turn, as they were written; none where there is no file.

    Raises:
        RunFolderError: if the file cannot be read, or a line is damaged.
    """
    place = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield place, Rollout.from_json(line)
                except (ValueError, TypeError, KeyError) as error:
                    raise RunFolderError(f"{path}, line {number} is damaged: {error}") from error
                place += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error


def read_rollout(path: Path, place: int) -> Rollout:
    """The turn that begins at `place`.

    Raises:
        RunFolderError: if there is none.
    """
    try:
        with path.open("rb") as file:
            file.seek(place)
            return Rollout.from_json(file.readline())
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} changed while it was read: {error}") from error
