"""Reads run folders that others may still be writing: nothing is locked, changed or kept in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.evals.folder import Rollout, RunConfig


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder to read from."""

    path: Path
    config: RunConfig

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def asked(self) -> int:
        """Turns that were asked for."""
        return len(self.config.tasks) * self.config.samples * self.config.turns

    def rollouts(self) -> Iterator[Rollout]:
        """The last outcome of every turn; a line that is still being written is left out.

        Raises:
            RunFolderError: if a line is damaged.
        """
        last: dict[str, int] = {}
        for number, line in self._lines():
            last[self._parse(number, line).key] = number
        for number, line in self._lines():
            rollout = self._parse(number, line)
            if last.get(rollout.key) == number:
                yield rollout

    def source(self, sha: str) -> str | None:
        """A kernel's source, what is not UTF-8 replaced; None if it is not there."""
        try:
            return (self.path / "kernels" / f"{sha}.py").read_bytes().decode("utf-8", "replace")
        except OSError:
            return None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with (self.path / "rollouts.jsonl").open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield number, line
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunFolderError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _parse(self, number: int, line: bytes) -> Rollout:
        try:
            return Rollout.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{self.path / 'rollouts.jsonl'}, line {number} is damaged: {error}") from error


def read_run(path: Path) -> Run:
    """Opens a run folder.

    Raises:
        RunFolderError: if it is none.
    """
    try:
        found = json.loads((path / "config.json").read_bytes())
        known = {field.name: found[field.name] for field in fields(RunConfig) if field.name in found}
        return Run(path, RunConfig(**{**known, "tasks": tuple(known["tasks"])}))
    except OSError as error:
        raise RunFolderError(f"{path} is no run folder: it has no config.json that can be read") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path / 'config.json'} is damaged: {error}") from error
