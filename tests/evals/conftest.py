"""A deterministic agent and evaluator: what a kernel says it earns, it earns."""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fastkernels_gym.agent import Proposal, Turn, Usage
from fastkernels_gym.catalog import Task
from fastkernels_gym.evals import Rollout, RunConfig, RunFolder
from fastkernels_gym.results import Correctness, EndToEnd, Evaluation, Rung, Verdict

TASK = "L1/rms_norm@tiny-llama"


def evaluation(
    task: str = TASK, verdict: Verdict = Verdict.OK, speedup: float = 1.0, e2e: float = 1.0, *, stable: bool = True
) -> Evaluation:
    """An evaluation with intervals of 1 % to either side."""
    if verdict.correct is not True:
        return Evaluation(task, verdict, feedback="no good")
    rung = Rung(speedup, (speedup * 0.99, speedup * 1.01), task.partition("@")[0], 100.0, 100.0 / speedup, 40.0)
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

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        self.seen.append((task.id, tuple(history)))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        found = self.script(task.id, len(history))
        return found if isinstance(found, Proposal) else Proposal(found, usage=Usage(10, 0, 5, 0, 1))

    async def aclose(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Population:
    """A made-up run: an agent that improves from turn to turn, on the levels' easy end first."""

    samples: int = 4
    turns: int = 3
    seed: int = 0
    skill: float = 0.0
    faults: float = 0.1
    agent: str = "scripted"
    tasks: tuple[str, ...] = (
        "L1/rms_norm@tiny-llama",
        "L1/silu_and_mul@tiny-llama",
        "L1/linear@tiny-qwen3",
        "L2/llama_mlp@tiny-llama",
        "L2/parallel_linear.QKVParallelLinear@tiny-qwen3",
        "L3/llama_decoder@tiny-llama",
        "L4/llama@tiny-llama",
        "L4/qwen3@tiny-qwen3",
    )

    def write(self, path: Path) -> Path:
        """A run folder of it."""
        config = RunConfig(self.agent, self.tasks, "some-llm", self.samples, self.turns)
        draw = random.Random(self.seed)
        with RunFolder(path, config) as folder:
            for task, sample, turn in product(self.tasks, range(self.samples), range(self.turns)):
                folder.append(self._rollout(folder, draw, task, sample, turn))
        return path

    def _rollout(self, folder: RunFolder, draw: random.Random, task: str, sample: int, turn: int) -> Rollout:
        key = folder.config.key(task, sample, turn)
        usage = Usage(draw.randrange(500, 2000), 100, draw.randrange(200, 4000), 50, 1)
        kept = {"llm": "some-llm", "usage": usage, "seconds": round(draw.uniform(5, 60), 3)}
        if draw.random() < 0.1:
            return Rollout(key, task, sample, turn, self.agent, **kept, error="no code block", reply="Let me think.")
        verdict = Verdict.OK
        if draw.random() > 0.35 + 0.2 * turn + self.skill:
            verdict = draw.choice([Verdict.WRONG_VALUE, Verdict.COMPILE_ERROR, Verdict.TIMEOUT])
            verdict = Verdict.INFRA_ERROR if draw.random() < self.faults else verdict
        elif draw.random() < 0.1:
            verdict = Verdict.BEYOND_ROOFLINE
        speedup = draw.lognormvariate(0.1 + self.skill + 0.1 * turn, 0.4)
        source = f"# {task} sample {sample} turn {turn}\nimport torch\n\n\nclass Kernel(torch.nn.Module):\n" + "".join(
            f"    def step_{i}(self, x):\n        return x * {draw.random():.3f}  # {i}\n\n" for i in range(12)
        )
        judged = evaluation(task, verdict, speedup, speedup**0.05, stable=draw.random() > 0.1)
        return Rollout(
            key, task, sample, turn, self.agent, candidate_sha=folder.keep(source), evaluation=judged, **kept
        )


class Scripted:
    """The parts of a run that this folder's tests use."""

    task = TASK
    agent = ScriptedAgent
    evaluator = ScriptedEvaluator
    evaluation = staticmethod(evaluation)
    population = Population


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted
