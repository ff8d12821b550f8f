"""The rows of the task table, and what opens behind each: turns, timings, feedback and kernels as JSON."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastkernels_gym.catalog.ids import TaskId
from fastkernels_gym.evals.archive import Run
from fastkernels_gym.evals.report.source import compare, highlight, shown
from fastkernels_gym.evals.rollout import Rollout
from fastkernels_gym.evals.tally import Outcome, best
from fastkernels_gym.results import Estimate, Evaluation, Verdict

_LONGEST_NOTE = 8000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sample of a task: what its row says, by its best turn, or its last where none is correct.

    Args:
        task, operator, model, level, sample: which.
        verdict: of that turn; `no_candidate` or `lost` where there was none.
        stable: whether that turn's timing was.
        op, e2e: that turn's speedups; None where not measured.
        best_turn: that turn's number, from 0.
        turns: all its turns.
    """

    task: str
    operator: str
    model: str
    level: str
    sample: int
    verdict: str
    stable: bool
    op: Estimate | None
    e2e: Estimate | None
    best_turn: int
    turns: tuple[Rollout, ...]

    @property
    def trusted(self) -> bool:
        """Whether its timing counts in full."""
        return self.stable and self.verdict == Verdict.OK

    @property
    def tokens(self) -> int:
        return sum(turn.usage.prompt_tokens + turn.usage.completion_tokens for turn in self.turns)

    @property
    def seconds(self) -> float:
        return sum(turn.seconds for turn in self.turns)


class Attempts:
    """Collects a run's turns into attempts, keeping of each turn what the page shows."""

    def __init__(self) -> None:
        self._turns: defaultdict[tuple[str, int], dict[int, Rollout]] = defaultdict(dict)

    def add(self, rollout: Rollout) -> None:
        """Adds a turn, or its next outcome; a reply is kept only where it holds no candidate."""
        reply = shown(rollout.reply, _LONGEST_NOTE) if rollout.candidate_sha is None else ""
        self._turns[rollout.task, rollout.sample][rollout.turn] = dataclasses.replace(rollout, reply=reply)

    def rows(self) -> list[Attempt]:
        """The attempts, by task and sample."""
        return [
            _attempt(task, sample, [turns[turn] for turn in sorted(turns)])
            for (task, sample), turns in sorted(self._turns.items())
        ]


class Kernels:
    """The kernels of a run as JSON-able data, each once however often it was submitted."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.texts: dict[str, str] = {}

    def text(self, sha: str) -> str | None:
        """A kernel as it is shown; None if the run folder has lost it."""
        if sha not in self.texts:
            source = self._run.source(sha)
            if source is None:
                return None
            self.texts[sha] = shown(source)
        return self.texts[sha]

    def data(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Every kernel that was asked for: its sha256; text and highlighting."""
        for sha, text in self.texts.items():
            yield sha, {"text": text, "runs": highlight(text)}


def detail(attempt: Attempt, kernels: Kernels) -> dict[str, Any]:
    """What opens behind an attempt's row."""
    turns, previous = [], None
    for rollout in attempt.turns:
        text = kernels.text(rollout.candidate_sha) if rollout.candidate_sha else None
        turns.append(
            {
                "turn": rollout.turn,
                "verdict": _verdict(rollout),
                "kernel": rollout.candidate_sha if text is not None else None,
                "since": previous[0] if previous and text is not None else None,
                "changes": compare(previous[1], text) if previous and text is not None else None,
                "note": shown(rollout.error or "", _LONGEST_NOTE),
                "reply": rollout.reply,
                "usage": dataclasses.asdict(rollout.usage),
                "seconds": rollout.seconds,
                **(_judged(rollout.evaluation) if rollout.evaluation else {}),
            }
        )
        if text is not None:
            previous = (rollout.turn, text)
    return {"task": shown(attempt.task), "sample": attempt.sample, "best": attempt.best_turn, "turns": turns}


def _judged(evaluation: Evaluation) -> dict[str, Any]:
    data = evaluation.to_dict()
    kept = {name: data[name] for name in ("reward_kind", "reward", "stable", "e2e", "ladder", "correctness")}
    texts = {"feedback": shown(evaluation.feedback), "warnings": [shown(text) for text in evaluation.warnings]}
    return {**_visible(kept), **texts, "spent": data["seconds"]}


def _visible(value: Any) -> Any:
    """JSON-able data with all its text made visible."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(name): _visible(item) for name, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list) else value


def _attempt(task: str, sample: int, turns: Sequence[Rollout]) -> Attempt:
    parsed = TaskId.parse(task)
    outcomes = [Outcome.of(rollout.turn, rollout.evaluation) for rollout in turns]
    chosen = best(outcomes)
    rollout = turns[outcomes.index(chosen) if chosen.correct else -1]
    judged = rollout.evaluation
    return Attempt(
        task=task,
        operator=parsed.operator,
        model=parsed.model,
        level=parsed.operator.partition("/")[0],
        sample=sample,
        verdict=_verdict(rollout),
        stable=judged is None or judged.stable,
        op=judged.op if judged else None,
        e2e=judged.e2e if judged else None,
        best_turn=rollout.turn,
        turns=tuple(turns),
    )


def _verdict(rollout: Rollout) -> str:
    if rollout.evaluation is not None:
        return str(rollout.evaluation.verdict)
    return "lost" if rollout.lost else "no_candidate"
