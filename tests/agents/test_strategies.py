"""What the agents that search ask an LLM, what `replay` submits, and a user's own agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.catalog import Task, load_task
from fastkernels_gym.device import DeviceFacts
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals import Rollout
from fastkernels_gym.results import Correctness, Evaluation, Verdict

OPTIONS = AgentOptions(llm="some-llm", base_url="http://127.0.0.1:9/v1", device=DeviceFacts("cpu"), turns=6)


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("L1/rms_norm@tiny-llama")


def turn(task: Task, mark: str, reward: float) -> Turn:
    """A candidate that can be told by its mark; a reward of 0 is a wrong one."""
    source = f"class RMSNorm:\n    mark = {mark!r}\n"
    if reward == 0.0:
        evaluation = Evaluation(task.id, Verdict.WRONG_VALUE, feedback=f"feedback on {mark}")
    else:
        right = Correctness(1, 1.0, 1.0, "")
        evaluation = Evaluation(task.id, Verdict.OK, reward=reward, correctness=right, feedback=f"feedback on {mark}")
    return Turn(Proposal(source, f"```python\n{source}```\n"), evaluation)


def asked(name: str, task: Task, history: Sequence[Turn], sample: int = 0) -> str:
    agent: Any = resolve_agent(name, OPTIONS)
    try:
        messages = agent.messages(task, history, sample=sample)
    finally:
        asyncio.run(agent.aclose())
    assert [message["role"] for message in messages[:2]] == ["system", "user"]
    return "\n".join(message["content"] for message in messages)


def test_best_of_n_never_shows_what_was_tried(task: Task) -> None:
    history = [turn(task, "first-try", 1.5), turn(task, "second-try", 0.0)]
    assert asked("best_of_n", task, history) == asked("best_of_n", task, ())


def test_refine_works_on_the_best_and_names_the_rest(task: Task) -> None:
    history = [turn(task, "mediocre", 1.1), turn(task, "champion", 1.7), turn(task, "latest", 0.0)]
    text = asked("refine", task, history)
    assert "champion" in text and "feedback on champion" in text
    assert "latest" in text and "feedback on latest" in text
    assert "mark = 'mediocre'" not in text


def test_evolve_breeds_from_what_survived_and_asks_the_same_again(task: Task) -> None:
    founders = [turn(task, "founder-a", 1.4), turn(task, "founder-b", 0.0), turn(task, "founder-c", 1.2)]
    assert asked("evolve", task, founders[:2]) == asked("evolve", task, ())
    text = asked("evolve", task, founders)
    assert any(f"founder-{letter}" in text for letter in "abc")
    assert asked("evolve", task, founders) == text
    assert len({asked("evolve", task, founders, sample) for sample in range(8)}) > 1


def test_every_strategy_asks_afresh_where_nothing_was_submitted(task: Task) -> None:
    for name in ("best_of_n", "refine", "evolve", "gpt"):
        assert "class RMSNorm" in asked(name, task, ())


def test_replay_submits_what_the_run_did(tmp_path: Path, task: Task) -> None:
    kernel = "class RMSNorm:\n    pass\n"
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "abc.py").write_text(kernel)
    rollouts = [
        Rollout("a", task.id, 0, 0, "gpt", candidate_sha="abc", reply="take this"),
        Rollout("b", task.id, 0, 1, "gpt", error="the reply holds no candidate", reply="no idea"),
    ]
    (tmp_path / "rollouts.jsonl").write_bytes(b"".join(rollout.to_json() for rollout in rollouts) + b'{"torn')
    agent = resolve_agent(f"replay:{tmp_path}")

    def submitted(turns: int, sample: int = 0) -> Proposal:
        return asyncio.run(agent.propose(task, [turn(task, "x", 1.0)] * turns, sample=sample))

    assert submitted(0) == Proposal(kernel, "take this")
    assert submitted(1) == Proposal(None, "no idea", "the reply holds no candidate")
    assert submitted(0, sample=1).source is None


def test_replay_of_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finds no run"):
        resolve_agent(f"replay:{tmp_path / 'nothing'}")


def test_a_users_own_agent_is_found_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agent.py").write_text(
        "from fastkernels_gym.agent import Proposal\n\n\n"
        "class Mine:\n"
        "    name, llm = 'mine', None\n\n"
        "    def __init__(self, turns=None):\n"
        "        self.turns = turns\n\n"
        "    async def propose(self, task, history, *, sample=0):\n"
        "        return Proposal(f'# {task.id} {self.turns}')\n\n"
        "    async def aclose(self):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agent = resolve_agent("my_agent:Mine", AgentOptions(turns=3))
    task = load_task("L1/rms_norm@tiny-llama")
    assert asyncio.run(agent.propose(task, ())).source == f"# {task.id} 3"


@pytest.mark.parametrize("name", ("my_agent:Nobody", "no_such_module:Mine", "json:dumps"))
def test_what_is_no_agent_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_agent(name)
    assert "\n" not in str(refused.value)
