"""The evaluation loop: an agent's turns on tasks, judged as they come, booked in a run folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastkernels_gym.agent import Agent, Proposal, Turn
from fastkernels_gym.catalog import Task, list_tasks, load_suite, load_task
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.folder import RunConfig, RunFolder
from fastkernels_gym.evals.metrics import Summary, summarise
from fastkernels_gym.evals.rollout import Rollout
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
        folder: the open run folder; its account says what the run may spend.
        concurrency: proposals asked for at once. As many samples again may wait for the evaluator: a fast LLM is held
            up there, and memory does not grow with the run.
        report: told of every turn that ends, the ones found in the folder first.

    Raises:
        UserError: if the configuration asks for nothing, or names a task that does not exist.
        KeyboardInterrupt: if interrupted.
    """
    config = folder.config
    if min(config.samples, config.turns, concurrency, len(config.tasks)) < 1:
        raise UserError("an evaluation has at least one task, one sample, one turn and one proposal at a time")
    loop = _Loop(agent, evaluator, folder, concurrency, report or _silent)
    try:
        asyncio.run(loop.run())
    finally:
        missing = config.missing(folder.tally)
        summary = summarise(folder.tally, measure=config.measure, missing=missing)
        folder.summarise({"agent": config.agent, "llm": config.llm, **summary.to_dict(), **folder.account.to_dict()})
    return summary


@dataclass(slots=True)
class _Loop:
    """Two queues: proposals, bounded by `concurrency`, and the evaluator's own."""

    agent: Agent
    evaluator: Judge
    folder: RunFolder
    concurrency: int
    report: Report
    _slots: asyncio.Semaphore = field(init=False)
    _tasks: dict[str, Task] = field(default_factory=dict)

    async def run(self) -> None:
        self._slots = asyncio.Semaphore(self.concurrency)
        unfinished = self._unfinished()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(2 * self.concurrency):
                    group.create_task(self._work(unfinished))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self.agent.aclose()

    def _unfinished(self) -> Iterator[tuple[str, int, list[Rollout]]]:
        """Samples that lack turns, with those that they have; what the folder already has is reported on the way."""
        for task_id, sample in _samples(self.folder.config):
            finished = self.folder.finished(task_id, sample)
            for rollout in finished:
                self.report(rollout)
            if len(finished) < self.folder.config.turns:
                yield task_id, sample, finished

    async def _work(self, samples: Iterator[tuple[str, int, list[Rollout]]]) -> None:
        for task_id, sample, finished in samples:
            await self._sample(task_id, sample, finished)

    async def _sample(self, task_id: str, sample: int, finished: Sequence[Rollout]) -> None:
        """The turns of one sample that are not finished.

        A turn that is lost, or a limit, ends it until the run is resumed.
        """
        if task_id not in self._tasks:
            self._tasks[task_id] = load_task(task_id)
        task = self._tasks[task_id]
        history = [self.folder.turn(rollout) for rollout in finished]
        while len(history) < self.folder.config.turns:
            async with self._slots:
                if not self.folder.account.may_start():
                    return
                began = time.monotonic()
                proposal = await self.agent.propose(task, history, sample=sample)
                seconds = time.monotonic() - began
                llm = proposal.llm or self.agent.llm
                dollars = self.folder.account.charge(llm, proposal.usage)
            began = time.monotonic()
            sha, evaluation = await self._judge(task, proposal)
            rollout = Rollout(
                key=self.folder.config.key(task_id, sample, len(history)),
                task=task_id,
                sample=sample,
                turn=len(history),
                agent=self.agent.name,
                llm=llm,
                candidate_sha=sha,
                evaluation=evaluation,
                usage=proposal.usage,
                seconds=round(seconds + time.monotonic() - began, 3),
                error=proposal.error,
                reply=proposal.reply,
                dollars=dollars,
                faults=proposal.faults,
                elapsed=round(self.folder.account.seconds, 3),
            )
            self.folder.account.note(rollout)
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
