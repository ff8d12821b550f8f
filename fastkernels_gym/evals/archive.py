"""Reads run folders that others may still be writing: nothing is locked, changed or kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.evals.folder import RunConfig
from fastkernels_gym.evals.rollout import Rollout, read_rollouts


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
        """Every outcome of every turn, in the order of writing; of a turn that ran again the last one counts.

        Raises:
            RunFolderError: if a line is damaged.
        """
        return (rollout for _, rollout in read_rollouts(self.path / "rollouts.jsonl"))

    def source(self, sha: str) -> str | None:
        """A kernel's source, what is not UTF-8 replaced; None if it is not there."""
        try:
            return (self.path / "kernels" / f"{sha}.py").read_bytes().decode("utf-8", "replace")
        except OSError:
            return None


def read_run(path: Path) -> Run:
    """Opens a run folder.

    Raises:
        RunFolderError: if it is none.
    """
    try:
        return Run(path, RunConfig.read(path / "config.json"))
    except OSError as error:
        raise RunFolderError(f"{path} is no run folder: it has no config.json that can be read") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path / 'config.json'} is damaged: {error}") from error
