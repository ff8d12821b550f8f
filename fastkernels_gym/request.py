"""One candidate to be judged on one task."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from fastkernels_gym.errors import UnmeasuredReward, UserError
from fastkernels_gym.results import Measure, RewardKind

_MEASURES = ("op", "ladder", "e2e")
_REWARDS = ("e2e", "op", "log_e2e", "headroom", "lower_bound")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a candidate has.

    Args:
        build_s: to import, build the model, compile and warm up, each.
        run_s: to run a program's calls.
    """

    build_s: float = 240.0
    run_s: float = 60.0


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What to judge, how far up the ladder to measure, and what to pay.

    Args:
        task: a task id.
        source: the candidate's source text, or its raw bytes as read from a file.
        measure: `op`, `ladder` or `e2e`.
        reward: the reward's kind; None takes `e2e` where it is measured, else `op`.
        budget_s: seconds of timing at the most.
        request_id: a name of the caller's own for this request.
        calibrating: an A/A run of a self-test: the baseline's player is fresh too, nothing is repeated, and intervals
            come without the spread between players that such runs are to find.

    Raises:
        UserError: on a measure or reward that does not exist.
        UnmeasuredReward: if the reward needs an end-to-end measurement that `measure` does not make.
    """

    task: str
    source: str | bytes
    measure: Measure = "e2e"
    reward: RewardKind | None = None
    budget_s: float = 10.0
    request_id: str = field(default_factory=lambda: uuid4().hex)
    calibrating: bool = False

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise UserError(f"no measure {self.measure!r}: there are {', '.join(_MEASURES)}")
        if self.reward is not None and self.reward not in _REWARDS:
            raise UserError(f"no reward {self.reward!r}: there are {', '.join(_REWARDS)}")
        if not self.budget_s > 0:
            raise UserError(f"a budget is a positive number of seconds, not {self.budget_s}")
        if self.measure != "e2e" and self.reward_kind != "op":
            raise UnmeasuredReward(f"reward {self.reward!r} needs --measure e2e; --measure {self.measure} gives 'op'")
        if self.reward == "headroom" and self.task.startswith("L4/"):
            raise UnmeasuredReward("reward 'headroom' needs an operator below L4: take e2e, op, log_e2e or lower_bound")

    @property
    def reward_kind(self) -> RewardKind:
        return self.reward or ("e2e" if self.measure == "e2e" else "op")
