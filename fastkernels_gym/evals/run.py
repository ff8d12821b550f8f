"""The evaluation loop: an agent's turns on tasks, judged as they come, booked in a run folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastkernels_gym.agent import Agent, Proposal, Turn
from fastkernels_gym.catalog import Task, list_tasks, load_suite, load_task
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.folder import Rollout, RunConfig, RunFolder
from fastkernels_gym.evals.metrics import Summary, summarise
from fastkernels_gym.results import Evaluation, Measure, RewardKind


class Judge(Protocol):
    """What the loop needs of an evaluator."""

    async def evaluate_async(
        self, task: str, source: str | bytes, *, measure: Measure, reward: RewardKind | None, budget_s: float
    ) -> Evaluation: ...


Report = Callable[[Rollout], None]


def choose_tasks(patterns: Sequence[str], device: str, suite: str = "smoke") -> tuple[str, ...]:
    """The tasks that match any of the patterns, once each; without patterns the suite of the device.

    Raises:
        UnknownTask: if a pattern matches nothing, or there is no such suite.
    """
    if not patterns:
        return load_suite(suite, device).tasks
    return tuple(dict.fromkeys(task for pattern in patterns for task in list_tasks(pattern)))


def run_eval(
    agent: Agent,
    evaluator: Judge,
    folder: RunFolder,
    *,
    concurrency: int = 8,
    report: Report | None = None,
) -> Summary:
    """Runs what is missing of a run and summarises all of it.

    However it ends, an interrupt included, the folder holds every turn that ended, and a summary of them.

    Args:
        agent: proposes candidates; closed at the end.
        evaluator: judges them.
        folder: the open run folder.
        concurrency: proposals asked for at once.
        report: told of every turn that ends, the ones found in the folder first.

    Raises:
        UserError: if the configuration asks for nothing, or names a task that does not exist.
        KeyboardInterrupt: if interrupted.
    """
    config = folder.config
    if min(config.samples, config.turns, concurrency, len(config.tasks)) < 1:
        raise UserError("an evaluation has at least one task, one sample, one turn and one proposal at a time")
    loop = _Loop(agent, evaluator, folder, asyncio.Semaphore(concurrency), report or _silent)
    try:
        asyncio.run(loop.run())
    finally:
        missing = sum(len(folder.finished(task, sample)) < config.turns for task, sample in _samples(config))
        summary = summarise(folder.rollouts, measure=config.measure, missing=missing)
        folder.summarise({"agent": config.agent, "llm": config.llm, **summary.to_dict()})
    return summary


@dataclass(frozen=True, slots=True)
class _Loop:
    agent: Agent
    evaluator: Judge
    folder: RunFolder
    slots: asyncio.Semaphore
    report: Report

    async def run(self) -> None:
        unfinished: list[tuple[str, int]] = []
        for task_id, sample in _samples(self.folder.config):
            ended = self.folder.finished(task_id, sample)
            for rollout in ended:
                self.report(rollout)
            if len(ended) < self.folder.config.turns:
                unfinished.append((task_id, sample))
        tasks = {task_id: load_task(task_id) for task_id, _ in unfinished}
        try:
            async with asyncio.TaskGroup() as group:
                for task_id, sample in unfinished:
                    group.create_task(self._sample(task_id, tasks[task_id], sample))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self.agent.aclose()

    async def _sample(self, task_id: str, task: Task, sample: int) -> None:
        """The turns of one sample, from the first that has not ended; a lost turn ends it until the run is resumed."""
        history = [self.folder.turn(rollout) for rollout in self.folder.finished(task_id, sample)]
        for number in range(len(history), self.folder.config.turns):
            async with self.slots:
                began = time.monotonic()
                proposal = await self.agent.propose(task, history, sample=sample)
                seconds = time.monotonic() - began
            began = time.monotonic()
            sha, evaluation = await self._judge(task, proposal)
            rollout = Rollout(
                key=self.folder.config.key(task_id, sample, number),
                task=task_id,
                sample=sample,
                turn=number,
                agent=self.agent.name,
                llm=proposal.llm or self.agent.llm,
                candidate_sha=sha,
                evaluation=evaluation,
                usage=proposal.usage,
                seconds=round(seconds + time.monotonic() - began, 3),
                error=proposal.error,
                reply=proposal.reply,
                faults=proposal.faults,
            )
            self.folder.append(rollout)
            self.report(rollout)
            if rollout.lost:
                return
            history.append(Turn(proposal, evaluation))

    async def _judge(self, task: Task, proposal: Proposal) -> tuple[str | None, Evaluation | None]:
        """The candidate's sha256 and what it earned; nothing of either without a candidate."""
        if proposal.source is None:
            return None, None
        config, sha = self.folder.config, self.folder.keep(proposal.source)
        # Text that is not UTF-8 is the candidate's fault, and the evaluator's to say.
        source = proposal.source.encode("utf-8", "surrogatepass")
        return sha, await self.evaluator.evaluate_async(
            task.id, source, measure=config.measure, reward=config.reward, budget_s=config.budget_s
        )


def _samples(config: RunConfig) -> list[tuple[str, int]]:
    """Every sample of a run; the first of every task comes before the second of any."""
    return [(task_id, sample) for sample in range(config.samples) for task_id in config.tasks]


def _silent(rollout: Rollout) -> None:
    pass
