"""A deterministic agent and evaluator: what a kernel says it earns, it earns."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastkernels_gym.agent import Proposal, Turn, Usage
from fastkernels_gym.catalog import Task
from fastkernels_gym.results import Correctness, EndToEnd, Evaluation, Rung, Verdict

TASK = "L1/rms_norm@tiny-llama"


def evaluation(
    task: str = TASK, verdict: Verdict = Verdict.OK, speedup: float = 1.0, e2e: float = 1.0, *, stable: bool = True
) -> Evaluation:
    """An evaluation with intervals of 1 % to either side."""
    if verdict.correct is not True:
        return Evaluation(task, verdict, feedback="no good")
    rung = Rung(speedup, (speedup * 0.99, speedup * 1.01), task.partition("@")[0], 100.0, 100.0 / speedup)
    model = EndToEnd(e2e, (e2e * 0.99, e2e * 1.01), 10.0, 10.0 / e2e, (2, 2))
    ladder = () if task.startswith("L4/") else (rung,)
    correctness = Correctness(3, 1.0, 1.0, "x")
    return Evaluation(task, verdict, stable=stable, reward=e2e, e2e=model, ladder=ladder, correctness=correctness)


@dataclass
class ScriptedEvaluator:
    """Reads `# earns <verdict> <speedup>` in the kernel; counts what runs at once."""

    seconds: float = 0.0
    judged: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def evaluate_async(self, task: str, source: str | bytes, **options: Any) -> Evaluation:
        text = source.decode() if isinstance(source, bytes) else source
        self.judged.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        found = re.search(r"# earns (\w+) ([\d.]+)", text)
        assert found is not None
        return evaluation(task, Verdict(found[1]), float(found[2]), float(found[2]))


@dataclass
class ScriptedAgent:
    """Submits what its script says for a sample's next turn; keeps what it was shown."""

    script: Callable[[str, int], str | Proposal]
    name: str = "scripted"
    llm: str | None = None
    seen: list[tuple[str, tuple[Turn, ...]]] = field(default_factory=list)
    closed: bool = False
    running: int = 0
    most: int = 0

    async def propose(self, task: Task, history: Sequence[Turn]) -> Proposal:
        self.seen.append((task.id, tuple(history)))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        found = self.script(task.id, len(history))
        return found if isinstance(found, Proposal) else Proposal(found, usage=Usage(10, 0, 5, 0, 1))

    async def aclose(self) -> None:
        self.closed = True


class Scripted:
    """The parts of a run that this folder's tests use."""

    task = TASK
    agent = ScriptedAgent
    evaluator = ScriptedEvaluator
    evaluation = staticmethod(evaluation)


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted
