"""The run folder: what was asked, every turn as it ended, every kernel. Survives a kill at any instruction.

config.json      what the run is: resuming with another one is refused
rollouts.jsonl   one line a turn, appended and synced; a last line cut short is dropped when the run is resumed
kernels/         <sha256>.py, each candidate once
summary.json     metrics of the turns so far
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Self

from filelock import FileLock, Timeout

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.device import DeviceFacts
from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.evals.limits import Account
from fastkernels_gym.evals.rollout import Rollout, read_rollout, read_rollouts
from fastkernels_gym.evals.tally import Tally
from fastkernels_gym.results import Measure, RewardKind

_EXTENT = ("tasks", "suite", "samples")  # a run may be resumed with more of these
_FOUND = ("facts",)  # not asked for, and kept as it was when a run is resumed


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run is.

    Args:
        agent: its name.
        tasks: task ids.
        llm: the LLM asked for; None for agents that use none.
        samples: independent attempts at each task.
        turns: candidates of each attempt.
        device: `cpu` or `cuda`.
        measure: how far up the ladder to measure.
        reward: what is paid; None takes the measure's own.
        budget_s: seconds of timing an evaluation at the most.
        temperature: of the LLM's sampling; None for its own.
        seed: of the LLM's sampling; None where none was given.
        prompts: version of the prompts; empty for agents that use none.
        suite: name and version of the suite that the tasks are; empty where they were named.
        facts: what prompts say of the device; None for nothing.
    """

    agent: str
    tasks: tuple[str, ...]
    llm: str | None = None
    samples: int = 1
    turns: int = 1
    device: str = "cpu"
    measure: Measure = "e2e"
    reward: RewardKind | None = None
    budget_s: float = 10.0
    prompts: str = ""
    suite: str = ""
    temperature: float | None = None
    seed: int | None = None
    facts: DeviceFacts | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration that a run folder's config.json holds.

        Raises:
            OSError: if the file cannot be read.
            ValueError, KeyError, TypeError, AttributeError: if it holds something else.
        """
        found = json.loads(path.read_bytes())
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        facts = known.get("facts")
        if facts is not None:
            products = tuple((str(dtype), float(flops)) for dtype, flops in facts["flops_per_s"])
            facts = DeviceFacts(**{**facts, "flops_per_s": products})
        return cls(**{**known, "tasks": tuple(known["tasks"]), "facts": facts})

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its continuation: all but how much is asked for."""
        found = {name: value for name, value in asdict(self).items() if name not in (*_EXTENT, *_FOUND)}
        # Sampling that nobody asked for is no setting: runs that are older than these options have the same names.
        return {
            name: value for name, value in found.items() if value is not None or name not in ("temperature", "seed")
        }

    @property
    def sha(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    def missing(self, tally: Tally) -> int:
        """Samples that have not had all their turns."""
        ended = sum(len(turns) >= self.turns for found in tally.samples.values() for turns in found.values())
        return len(self.tasks) * self.samples - ended

    def key(self, task: str, sample: int, turn: int) -> str:
        """The name of a turn among all turns of all runs of this configuration."""
        return f"{task}#{sample}.{turn}@{self.sha}"


@dataclass(slots=True)
class _Ended:
    """Where the last outcome of a turn lies in rollouts.jsonl, and whether it was lost."""

    place: int
    lost: bool


class RunFolder:
    """An open run folder, which no other process has open.

    Of the turns only their tally and their places are kept in memory.

    Args:
        path: the folder.
        config: the run's.
        resume: continues a run; False makes the folder.
        account: told of everything that the folder has recorded; None makes one without limits and prices.

    Attributes:
        tally: of the turns so far.
        account: of what the run has spent.

    Raises:
        RunFolderError: if the folder exists without `resume`, is missing with it, is in use, belongs to another
            configuration or is damaged.
    """

    def __init__(self, path: Path, config: RunConfig, *, resume: bool = False, account: Account | None = None) -> None:
        self.path, self.config = path, config
        self.account = account or Account(config.llm)
        _enter(path, resume)
        self._lock = FileLock(path / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunFolderError(f"{path} is in use by another run") from None
        try:
            self._check_config()
            self.tally = Tally()
            self._ended: dict[str, _Ended] = {}
            self._recover()
            write_atomically(path / "config.json", _json({**asdict(config), "sha": config.sha}))
            self._file: BinaryIO = self._journal.open("ab")
        except BaseException:
            self._lock.release()
            raise

    def finished(self, task: str, sample: int) -> list[Rollout]:
        """The turns of a sample that need not run again, from the first on."""
        found: list[Rollout] = []
        for turn in range(self.config.turns):
            ended = self._ended.get(self.config.key(task, sample, turn))
            if ended is None or ended.lost:
                break
            found.append(read_rollout(self._journal, ended.place))
        return found

    def turn(self, rollout: Rollout) -> Turn:
        """The turn that an agent is shown of a rollout."""
        source = None
        if rollout.candidate_sha is not None:
            source = self._kernel(rollout.candidate_sha).read_bytes().decode("utf-8", "surrogatepass")
        proposal = Proposal(source, rollout.reply, rollout.error, rollout.llm, rollout.usage, rollout.faults)
        return Turn(proposal, rollout.evaluation)

    def keep(self, source: str) -> str:
        """Stores a candidate and returns its sha256."""
        data = source.encode("utf-8", "surrogatepass")
        sha = hashlib.sha256(data).hexdigest()
        path = self._kernel(sha)
        if not path.exists():
            write_atomically(path, data)
        return sha

    def append(self, rollout: Rollout) -> None:
        """Adds a turn; once this returns, it is on the disk."""
        place = self._file.tell()
        self._file.write(rollout.to_json())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(place, rollout)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        write_atomically(self.path / "summary.json", _json(summary))

    def close(self) -> None:
        """Lets others open the folder."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _journal(self) -> Path:
        return self.path / "rollouts.jsonl"

    def _kernel(self, sha: str) -> Path:
        return self.path / "kernels" / f"{sha}.py"

    def _check_config(self) -> None:
        path = self.path / "config.json"
        if not path.exists():  # killed before it was written: nothing ran yet
            return
        try:
            old = RunConfig.read(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{path} is damaged: {error}") from error
        names = old.identity | self.config.identity
        wrong = [f"{name} was {was!r}" for name in names if (was := getattr(old, name)) != getattr(self.config, name)]
        if wrong:
            raise RunFolderError(f"{self.path} is a run of another configuration: {', '.join(wrong)}")

    def _recover(self) -> None:
        """Takes in the turns that are complete; what a kill left of the last line is cut off."""
        for place, rollout in read_rollouts(self._journal):
            self.account.recall(rollout)
            if rollout.candidate_sha is None or self._kernel(rollout.candidate_sha).exists():
                self._note(place, rollout)
        if self._journal.exists():
            os.truncate(self._journal, _end_of_last_line(self._journal))

    def _note(self, place: int, rollout: Rollout) -> None:
        self._ended[rollout.key] = _Ended(place, rollout.lost)
        self.tally.add(rollout)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all, whatever happens."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _end_of_last_line(path: Path) -> int:
    """Bytes up to the last end of a line."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while end:
            begin = max(0, end - (1 << 16))
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _enter(path: Path, resume: bool) -> None:
    if resume and not path.is_dir():
        raise RunFolderError(f"no run to resume in {path}")
    try:
        path.mkdir(parents=True, exist_ok=resume)
        (path / "kernels").mkdir(exist_ok=True)
    except FileExistsError:
        raise RunFolderError(f"{path} exists: continue it with --resume, or choose another with --out") from None
    except OSError as error:
        raise RunFolderError(f"cannot make {path}: {error.strerror or error}") from error


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=2, allow_nan=False).encode() + b"\n"
