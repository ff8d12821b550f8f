"""What an evaluation says: the verdict, how accurate the candidate is, how fast it is. Frozen, and JSON both ways."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

SCHEMA = 1

Measure = Literal["op", "ladder", "e2e"]
RewardKind = Literal["e2e", "op", "log_e2e", "headroom", "lower_bound"]


class Verdict(StrEnum):
    """Every way an evaluation can end."""

    OK = "ok"
    POLICY_REJECT = "policy_reject"
    LOAD_ERROR = "load_error"
    INTERFACE_MISMATCH = "interface_mismatch"
    COMPILE_ERROR = "compile_error"
    COMPILE_TIMEOUT = "compile_timeout"
    RUNTIME_ERROR = "runtime_error"
    DEVICE_FAULT = "device_fault"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    WRONG_VALUE = "wrong_value"
    UNWRITTEN_OUTPUT = "unwritten_output"
    MUTATED_INPUT = "mutated_input"
    NONDETERMINISTIC = "nondeterministic"
    PROTOCOL_TAMPER = "protocol_tamper"
    TIMING_INCONSISTENT = "timing_inconsistent"
    BEYOND_ROOFLINE = "beyond_roofline"
    INFRA_ERROR = "infra_error"

    @property
    def correct(self) -> bool | None:
        """Whether the candidate computes its operator; None where nobody can say."""
        if self is Verdict.INFRA_ERROR:
            return None
        return self in (Verdict.OK, Verdict.TIMING_INCONSISTENT, Verdict.BEYOND_ROOFLINE)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured ratio baseline / candidate with its 95 % confidence interval."""

    speedup: float
    ci95: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.ci95
        if not all(math.isfinite(v) and v > 0 for v in (self.speedup, low, high)):
            raise ValueError(f"a speedup is finite and positive: {self.speedup} [{low}, {high}]")
        if not low <= high:
            raise ValueError(f"an interval runs upward: [{low}, {high}]")

    @property
    def half_width(self) -> float:
        """Half the interval's width, over the speedup."""
        return (self.ci95[1] - self.ci95[0]) / 2 / self.speedup


@dataclass(frozen=True, slots=True)
class CaseTiming:
    """One call shape of an operator: microseconds a call, and how often the workload makes it (n x count)."""

    phase: str
    shapes: str
    calls: int
    baseline_us: float
    candidate_us: float


@dataclass(frozen=True, slots=True)
class Rung(Estimate):
    """One operator of the ladder, the replaced one first: microseconds of all its calls in the workload."""

    operator: str
    baseline_us: float
    candidate_us: float
    roofline_us: float | None = None
    cases: tuple[CaseTiming, ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseTiming:
    """One phase of the full model: milliseconds a pass, and how often the workload runs it."""

    n: int
    baseline_ms: float
    candidate_ms: float


@dataclass(frozen=True, slots=True)
class EndToEnd(Estimate):
    """The full model: milliseconds of the whole workload; `depth` is (layers run, layers of the model)."""

    baseline_ms: float
    candidate_ms: float
    depth: tuple[int, int]
    phases: Mapping[str, PhaseTiming] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Correctness:
    """The worst error of all rounds, as a ratio to the baseline's own error against the oracle."""

    rounds: int
    max_error_ratio: float
    rms_error_ratio: float
    worst: str


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the evaluation's wall time went."""

    total: float = 0.0
    queue: float = 0.0
    build: float = 0.0
    correctness: float = 0.0
    timing: float = 0.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The frozen result of judging one candidate on one task.

    `dead_band` is relative: what two equal kernels may differ by where the reward's speedup was measured.

    Raises:
        ValueError: on a state that no evaluation can have: timings of an incorrect candidate, a reward without
            a correct verdict, an `ok` without correctness.
    """

    task: str
    verdict: Verdict
    replaces: tuple[str, ...] = ()
    stable: bool = True
    reward_kind: RewardKind = "e2e"
    reward: float = 0.0
    dead_band: float = 0.0
    e2e: EndToEnd | None = None
    ladder: tuple[Rung, ...] = ()
    correctness: Correctness | None = None
    seconds: Seconds = Seconds()
    device: str = ""
    sandbox: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    feedback: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.reward):
            raise ValueError("a reward is a finite number")
        if not 0.0 <= self.dead_band < math.inf:
            raise ValueError("a dead band is a finite number, and not negative")
        if self.verdict.correct is not True and (self.e2e or self.ladder):
            raise ValueError(f"{self.verdict} has no timing")
        if self.verdict is Verdict.OK and self.correctness is None:
            raise ValueError("ok states its correctness")
        if self.verdict is Verdict.INFRA_ERROR and self.reward != 0.0:
            raise ValueError("infra_error never carries a reward")

    @property
    def correct(self) -> bool | None:
        return self.verdict.correct

    @property
    def paid(self) -> bool:
        """Whether the speedup that the reward goes by is proven: stable, its whole interval above the dead band."""
        estimate = self.op if self.reward_kind == "op" else self.e2e
        trusted = self.verdict is Verdict.OK and self.stable
        return trusted and estimate is not None and estimate.ci95[0] > 1.0 + self.dead_band

    @property
    def op(self) -> Rung | EndToEnd | None:
        """The replaced operator's own timing; for an L4 task that is the end to end one."""
        return self.ladder[0] if self.ladder else (self.e2e if self.task.startswith("L4/") else None)

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON-able data, in the order of the documented schema."""
        data = _ADAPTER.dump_python(self, mode="json")
        return {
            "schema": SCHEMA,
            "task": data.pop("task"),
            "verdict": data.pop("verdict"),
            "correct": self.correct,
            "paid": self.paid,
            **data,
        }

    def to_json(self, *, indent: int | None = None) -> str:
        import json

        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the text is not an evaluation of this schema.
        """
        import json

        data = json.loads(text)
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise ValueError(f"not an evaluation of schema {SCHEMA}")
        data.pop("correct", None)
        data.pop("paid", None)
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            raise ValueError(f"not an evaluation: {error.errors()[0]['msg']}") from error


_ADAPTER: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)
