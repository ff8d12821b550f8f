"""The environment with a fake clock: the same reply earns the same on every run and every machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from fastkernels_gym.envs.fastkernels import FastKernelsEnv
from fastkernels_gym.executor import Evaluator
from fastkernels_gym.results import Correctness, Evaluation, Rung, Verdict

FAKE_CLOCK = "fake clock: a correct candidate counts as exactly as fast as the baseline"


class DeterministicFastKernelsEnv(FastKernelsEnv):
    """Judges candidates for real, on the CPU, and takes every correct one to be exactly as fast as the baseline.

    A correct candidate earns 1.0. Whatever else varies between runs is left out: seconds, error ratios, and feedback
    beyond the verdict. For testing agents and training loops; it cannot tell a fast kernel from a slow one, and its
    evaluations say so in their `warnings`.

    Args:
        tasks: as in `FastKernelsEnv`.
        level: as in `FastKernelsEnv`.
        max_turns: as in `FastKernelsEnv`.
        failure: as in `FastKernelsEnv`.
        render_mode: as in `FastKernelsEnv`.
        evaluator: as in `FastKernelsEnv`.
    """

    def __init__(
        self,
        *,
        tasks: str | Sequence[str] | None = None,
        level: int | None = None,
        max_turns: int = 1,
        failure: float = 0.0,
        render_mode: str | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        super().__init__(
            tasks=tasks,
            level=level,
            measure="op",
            reward="op",
            max_turns=max_turns,
            budget_s=0.1,
            device="cpu",
            failure=failure,
            render_mode=render_mode,
            evaluator=evaluator,
        )

    def _result(self, future: Future[Evaluation]) -> Evaluation:
        return at_baseline_speed(super()._result(future))


def at_baseline_speed(evaluation: Evaluation) -> Evaluation:
    """What the evaluation says on every run: its verdict, with a correct candidate's speedup put at 1.0."""
    if not evaluation.correct:
        feedback = f"The verdict is {evaluation.verdict}."
        return Evaluation(
            evaluation.task, evaluation.verdict, evaluation.replaces, warnings=(FAKE_CLOCK,), feedback=feedback
        )
    operator = evaluation.task.partition("@")[0]
    return Evaluation(
        evaluation.task,
        Verdict.OK,
        evaluation.replaces,
        reward_kind="op",
        reward=1.0,
        ladder=(Rung(1.0, (1.0, 1.0), operator, baseline_us=1.0, candidate_us=1.0),),
        correctness=Correctness(rounds=0, max_error_ratio=1.0, rms_error_ratio=1.0, worst=FAKE_CLOCK),
        warnings=(FAKE_CLOCK,),
        feedback="Correct.",
    )
