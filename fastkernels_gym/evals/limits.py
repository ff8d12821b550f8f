"""Limits of a run, and the account of all that it has spent: every recorded line counts, turns run again included."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fastkernels_gym.agent import Usage
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.prices import Prices
from fastkernels_gym.evals.rollout import Rollout
from fastkernels_gym.results import Verdict


@dataclass(frozen=True, slots=True)
class Limits:
    """After what a run starts nothing new; None for no limit.

    Args:
        dollars: of tokens, by the price table.
        tokens: as the server reports them, prompt and completion.
        seconds: of wall time.
    """

    dollars: float | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for option, limit in (("cost", self.dollars), ("tokens", self.tokens), ("time", self.seconds)):
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UserError(f"--max-{option} is more than 0")


class Account:
    """What a run has spent, in earlier sittings too once it is told of them; decides whether more may be started.

    Args:
        llm: the LLM asked for.
        limits: the run's.
        prices: what tokens cost.

    Raises:
        UserError: if dollars are limited and the LLM has no price.
    """

    def __init__(self, llm: str | None, limits: Limits | None = None, prices: Prices | None = None) -> None:
        self.llm, self.limits, self.prices = llm, limits or Limits(), prices or Prices()
        require_price(llm, self.limits, self.prices)
        self.usage, self.dollars = Usage(), 0.0
        self.faults: Counter[str] = Counter()
        self.infra_errors = 0
        self.llms: Counter[str] = Counter()
        self.ended_by: str | None = None
        self._earlier_s, self._priced = 0.0, False
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of the run: earlier sittings up to their last recorded turn, and this one."""
        return self._earlier_s + time.monotonic() - self._began

    def may_start(self) -> bool:
        """Whether a call may be started; the limit that first forbids one is the one that ended the run."""
        if self.ended_by is None:
            self.ended_by = self._reached()
        return self.ended_by is None

    def charge(self, llm: str | None, usage: Usage, dollars: float | None = None) -> float | None:
        """Counts what a proposal cost, at once: before it is judged others may be asked for.

        Args:
            llm: the model that answered.
            usage: its tokens.
            dollars: their price where it is known; else the table's counts.

        Returns:
            Dollars; None where the LLM has no price.
        """
        if dollars is None and self.llm is not None and (price := self.prices.find(self.llm, llm)):
            dollars = price.dollars(usage)
        self.usage += usage
        if dollars is not None:
            self.dollars, self._priced = self.dollars + dollars, True
        return dollars

    def recall(self, rollout: Rollout) -> None:
        """Counts a line of an earlier sitting: whatever became of the turn later, it was paid for."""
        self.charge(rollout.llm, rollout.usage, rollout.dollars)
        self.note(rollout)
        self._earlier_s = max(self._earlier_s, rollout.elapsed)

    def note(self, rollout: Rollout) -> None:
        """Counts what became of a proposal that is charged already."""
        self.faults.update(map(str, rollout.faults))
        self.infra_errors += rollout.evaluation is not None and rollout.evaluation.verdict is Verdict.INFRA_ERROR
        if rollout.llm and rollout.reply:
            self.llms[rollout.llm] += 1

    def to_dict(self) -> dict[str, Any]:
        """What summary.json and the end table show of it."""
        spent = {"dollars": self.dollars if self._priced else None, "seconds": round(self.seconds, 3)}
        return {
            "ended_by": self.ended_by,
            "limits": asdict(self.limits),
            "account": {**asdict(self.usage), **spent},
            "llms": dict(sorted(self.llms.items())),
            "faults": dict(sorted(self.faults.items())),
            "infra_errors": self.infra_errors,
        }

    def notes(self) -> list[str]:
        """Lines for the end of a run: what it cost, what went wrong, what ended it."""
        usage, notes = self.usage, []
        if usage.requests:
            cost = f", ${self.dollars:.4f}{self.prices.caveat(self.llm, *self.llms)}" if self._priced else ""
            notes.append(
                f"{usage.requests} requests: {usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached), "
                f"{usage.completion_tokens} completion tokens ({usage.reasoning_tokens} reasoning){cost}"
            )
        faults = [f"{count} {fault}" for fault, count in sorted(self.faults.items())]
        notes += [f"faults of the LLM's endpoint: {', '.join(faults)}"] if faults else []
        notes += [f"infrastructure errors: {self.infra_errors}"] if self.infra_errors else []
        notes += [f"ended by {self.ended_by}: continue with --resume and a higher limit"] if self.ended_by else []
        return notes

    def _reached(self) -> str | None:
        """The first limit that is reached, as its option."""
        limits = self.limits
        states: tuple[tuple[str, float, float | None], ...] = (
            ("--max-cost", self.dollars, limits.dollars),
            ("--max-tokens", self.usage.tokens, limits.tokens),
            ("--max-time", self.seconds, limits.seconds),
        )
        return next((name for name, spent, limit in states if limit is not None and spent >= limit), None)


def require_price(llm: str | None, limits: Limits, prices: Prices) -> None:
    """Raises UserError if dollars are limited and an LLM has no price."""
    if limits.dollars is not None and llm is not None and prices.find(llm) is None:
        raise UserError(
            f"--max-cost needs a price and {llm!r} has none: give one with --prices FILE, holding [[price]] "
            f"with models = [{json.dumps(llm)}], input = DOLLARS, output = DOLLARS (per million tokens)"
        )
