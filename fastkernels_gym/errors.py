"""The exceptions of FastKernels Gym.

    FastKernelsError
    ├── UserError                 bad input: one clear line, exit status 2
    │   ├── UnknownTask           no such operator, model, workload or phase
    │   ├── UnknownModel          a config that cannot be found or read
    │   ├── UnsupportedModel      a config whose architecture has no L4 operator
    │   ├── UnmeasuredReward      a reward asked for that the measure does not give
    │   └── RunFolderError        a run folder that exists, is missing or cannot be resumed
    ├── CandidateFault            the candidate's doing: becomes a verdict, never an error of ours
    └── HarnessFault              our doing or the machine's: retried, then `infra_error`, exit status 3
        ├── SandboxUnavailable    no namespaces or private mounts: the evaluator refuses to start
        └── PlayerLost            a trusted player died or stopped answering

A candidate's fault is attributed once, where the referee meets the player; nothing above that boundary catches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastkernels_gym.results import Verdict


class FastKernelsError(Exception):
    """Everything this package raises on purpose."""


class UserError(FastKernelsError):
    """The caller asked for something that cannot be had; the message names what can."""


class UnknownTask(UserError):
    """No such operator, model, workload or phase."""


class UnknownModel(UserError):
    """A model config that cannot be found or read."""


class UnsupportedModel(UserError):
    """A model config whose architecture has no L4 operator here."""


class UnmeasuredReward(UserError):
    """A reward was asked for that the chosen measure does not give."""


class RunFolderError(UserError):
    """A run folder exists already, is missing, or belongs to another configuration."""


class CandidateFault(FastKernelsError):
    """The candidate's doing, with the verdict it earns and the feedback it gets."""

    def __init__(self, verdict: Verdict, detail: str = "") -> None:
        super().__init__(f"{verdict}: {detail}" if detail else str(verdict))
        self.verdict = verdict
        self.detail = detail


class HarnessFault(FastKernelsError):
    """Our doing, or the machine's: never held against a candidate."""


class SandboxUnavailable(HarnessFault):
    """The machine cannot give a player its own namespaces and private mounts."""


class PlayerLost(HarnessFault):
    """A trusted player died or stopped answering."""
