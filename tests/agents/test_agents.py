import asyncio
from pathlib import Path

import pytest

from fastkernels_gym import Evaluator
from fastkernels_gym.agent import Proposal
from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog import Task, list_tasks, load_task
from fastkernels_gym.errors import UserError


def propose(name: str, task: Task) -> Proposal:
    return asyncio.run(resolve_agent(name).propose(task, ()))


@pytest.mark.parametrize("name", ("baseline", "reference", "compile"))
def test_every_operator_gets_a_candidate_that_replaces_it_and_no_other(name: str) -> None:
    for task_id in list_tasks("*@tiny-*"):
        task = load_task(task_id)
        proposal = propose(name, task)
        assert proposal.source is not None and proposal.error is None
        siblings = [other.rpartition(".")[2] for other in task.replaced_with]
        replaced = Candidate.parse(proposal.source).replaces(task.operator.class_name, siblings)
        assert replaced[0] == task.operator.class_name
        assert name == "baseline" or len(replaced) == 1


@pytest.mark.parametrize(
    ("name", "operator"),
    (
        ("baseline", "L1/rms_norm"),
        ("baseline", "L4/llama"),
        ("reference", "L1/rms_norm"),
        ("reference", "L3/llama_decoder"),
    ),
)
def test_candidate_is_judged_correct(evaluator: Evaluator, name: str, operator: str) -> None:
    task = load_task(f"{operator}@tiny-llama")
    found = evaluator.evaluate(task.id, propose(name, task).source or "", measure="op", budget_s=0.2)
    assert found.verdict.correct, found.feedback


def test_file_agent_takes_the_operators_file_or_its_family(tmp_path: Path) -> None:
    task = load_task("L2/parallel_linear.QKVParallelLinear@tiny-llama")
    folder = tmp_path / "L2"
    folder.mkdir()
    missing = propose(f"file:{tmp_path}", task)
    assert missing.source is None and missing.error and "QKVParallelLinear.py" in missing.error
    (folder / "parallel_linear.py").write_text("# family")
    assert propose(f"file:{tmp_path}", task).source == "# family"
    (folder / "parallel_linear.QKVParallelLinear.py").write_bytes(b"# own")
    assert propose(f"file:{tmp_path}", task).source == "# own"
    assert propose(f"file:{folder / 'parallel_linear.py'}", load_task("L1/rms_norm@tiny-llama")).source == "# family"


@pytest.mark.parametrize("name", ("nobody", "file", "file:", "file:/does/not/exist", ""))
def test_unknown_agent_is_named(name: str) -> None:
    with pytest.raises(UserError, match="agent"):
        resolve_agent(name)


def test_only_agents_that_ask_take_an_llm() -> None:
    with pytest.raises(UserError, match="--model"):
        resolve_agent("compile", AgentOptions(llm="some-llm"))
    assert resolve_agent("gpt", AgentOptions(llm="some-llm", base_url="http://127.0.0.1:9/v1")).llm == "some-llm"
