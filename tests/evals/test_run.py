import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastkernels_gym.agent import Proposal
from fastkernels_gym.catalog import load_suite
from fastkernels_gym.errors import RunFolderError, UserError
from fastkernels_gym.evals import RunConfig, RunFolder, Summary, choose_tasks, run_eval
from fastkernels_gym.results import Verdict

TASK, OTHER = "L1/rms_norm@tiny-llama", "L4/llama@tiny-llama"


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"agent": "scripted", "tasks": (TASK, OTHER), "samples": 2, "turns": 2, **changes})


def script(task: str, turn: int) -> str:
    return f"# {task} turn {turn}\n# earns ok {1.0 + turn}\n"


def run(path: Path, agent: Any, evaluator: Any, *, resume: bool = False, **changes: Any) -> Summary:
    with RunFolder(path, config(**changes), resume=resume) as folder:
        return run_eval(agent, evaluator, folder)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]


def test_folder_holds_every_turn_and_kernel(scripted: Any, tmp_path: Path) -> None:
    agent, evaluator = scripted.agent(script), scripted.evaluator()
    summary = run(tmp_path / "run", agent, evaluator)
    found = lines(tmp_path / "run")
    assert agent.closed
    assert len({line["key"] for line in found}) == len(found) == 8
    names = {
        "key",
        "task",
        "sample",
        "turn",
        "agent",
        "llm",
        "candidate_sha",
        "evaluation",
        "usage",
        "seconds",
        "error",
    }
    assert all(names <= line.keys() for line in found)
    kernels = {path.stem: path.read_text() for path in (tmp_path / "run" / "kernels").iterdir()}
    assert {line["candidate_sha"] for line in found} == kernels.keys()
    assert sorted(kernels.values()) == sorted({script(task, turn) for task in (TASK, OTHER) for turn in (0, 1)})
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept["turns"] == summary.turns == 8 and kept["missing"] == 0
    assert [level.name for level in summary.levels] == ["L1", "L4", "all"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["agent"] == "scripted"


def test_each_turn_sees_the_ones_before(scripted: Any, tmp_path: Path) -> None:
    agent = scripted.agent(script)
    run(tmp_path / "run", agent, scripted.evaluator(), tasks=(TASK,), samples=1, turns=3)
    assert [len(history) for _, history in agent.seen] == [0, 1, 2]
    last = agent.seen[-1][1][-1]
    assert last.proposal.source == script(TASK, 1)
    assert last.evaluation is not None and last.evaluation.reward == 2.0


def test_proposals_at_once_are_bounded_and_evaluations_overlap_them(scripted: Any, tmp_path: Path) -> None:
    agent, evaluator = scripted.agent(script), scripted.evaluator(seconds=0.2)
    with RunFolder(tmp_path / "run", config(samples=6, turns=1)) as folder:
        run_eval(agent, evaluator, folder, concurrency=3)
    assert agent.most == 3
    assert evaluator.most > 3


def test_turn_without_candidate_uses_up_a_turn(scripted: Any, tmp_path: Path) -> None:
    def think(task: str, turn: int) -> Any:
        return Proposal(None, "Hm.", "the reply holds no candidate") if turn == 0 else script(task, turn)

    summary = run(tmp_path / "run", scripted.agent(think, llm="some-llm"), scripted.evaluator(), samples=1)
    assert (summary.turns, summary.lost, summary.levels[-1].correct.value) == (4, 0, 1.0)


def test_finished_run_resumes_to_the_same_summary_without_work(scripted: Any, tmp_path: Path) -> None:
    first = run(tmp_path / "run", scripted.agent(script), scripted.evaluator())
    agent, evaluator = scripted.agent(script), scripted.evaluator()
    assert run(tmp_path / "run", agent, evaluator, resume=True) == first
    assert not agent.seen and not evaluator.judged


def test_resumed_run_may_ask_for_more(scripted: Any, tmp_path: Path) -> None:
    run(tmp_path / "run", scripted.agent(script), scripted.evaluator(), tasks=(TASK,), samples=1)
    agent = scripted.agent(script)
    assert run(tmp_path / "run", agent, scripted.evaluator(), resume=True).turns == 8
    assert len(agent.seen) == 6


@pytest.mark.parametrize("fault", ("evaluator", "server"))
def test_what_infrastructure_lost_runs_again(scripted: Any, tmp_path: Path, fault: str) -> None:
    def fail(task: str, turn: int) -> Any:
        if turn == 0:
            return script(task, turn)
        return "# earns infra_error 0" if fault == "evaluator" else Proposal(None, error="HTTP 500: oops")

    changes = {"samples": 1, "llm": "some-llm", "turns": 3}
    lost = run(tmp_path / "run", scripted.agent(fail, llm="some-llm"), scripted.evaluator(), **changes)
    assert (lost.turns, lost.lost, lost.missing) == (4, 2, 2)
    agent = scripted.agent(script, llm="some-llm")
    found = run(tmp_path / "run", agent, scripted.evaluator(), resume=True, **changes)
    assert (found.turns, found.lost, found.missing) == (6, 0, 0)
    assert sorted(len(history) for _, history in agent.seen) == [1, 1, 2, 2]


def test_source_that_is_not_utf8_is_kept_and_judged(scripted: Any, tmp_path: Path) -> None:
    odd = "# earns policy_reject 0\n# \udcff"
    found = run(tmp_path / "run", scripted.agent(lambda task, turn: odd), ByteCounting(), tasks=(TASK,), samples=1)
    assert found.verdicts == {"policy_reject": 2}


class ByteCounting:
    async def evaluate_async(self, task: str, source: str | bytes, **options: Any) -> Any:
        from fastkernels_gym.results import Evaluation

        assert isinstance(source, bytes)
        return Evaluation(task, Verdict.POLICY_REJECT)


def test_failure_of_an_agent_ends_the_run_with_its_error(scripted: Any, tmp_path: Path) -> None:
    def fail(task: str, turn: int) -> str:
        if turn == 1:
            raise UserError("out of ideas")
        return script(task, turn)

    with pytest.raises(UserError, match="out of ideas"):
        run(tmp_path / "run", scripted.agent(fail), scripted.evaluator())
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept["turns"] == len(lines(tmp_path / "run")) and kept["missing"] == 4


def test_existing_folder_needs_resume(scripted: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="--resume"):
        RunFolder(tmp_path, config())
    with pytest.raises(RunFolderError, match="no run"):
        RunFolder(tmp_path / "absent", config(), resume=True)


def test_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", config(llm="a")).close()
    with pytest.raises(RunFolderError, match="llm was 'a'"):
        RunFolder(tmp_path / "run", config(llm="b"), resume=True)
    RunFolder(tmp_path / "run", config(llm="a"), resume=True).close()


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", config()), pytest.raises(RunFolderError, match="in use"):
        RunFolder(tmp_path / "run", config(), resume=True)


def test_damage_in_the_middle_is_named(scripted: Any, tmp_path: Path) -> None:
    run(tmp_path / "run", scripted.agent(script), scripted.evaluator())
    path = tmp_path / "run" / "rollouts.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sample"', b'"simple"', 1))
    with pytest.raises(RunFolderError, match="line 1 is damaged"):
        RunFolder(tmp_path / "run", config(), resume=True)


@pytest.fixture(scope="module")
def finished(scripted: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("runs") / "run"
    run(path, scripted.agent(script), scripted.evaluator())
    yield path


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 1 << 20))
def test_run_cut_off_at_any_byte_is_completed(scripted: Any, finished: Path, number: int) -> None:
    path = finished / "rollouts.jsonl"
    whole = path.read_bytes()
    kept = number % (len(whole) + 1)
    path.write_bytes(whole[:kept])
    agent = scripted.agent(script)
    summary = run(finished, agent, scripted.evaluator(), resume=True)
    assert len(agent.seen) == 8 - whole[:kept].count(b"\n")
    assert len({line["key"] for line in lines(finished)}) == len(lines(finished)) == summary.turns == 8


PROGRAM = """
import asyncio, sys
from pathlib import Path
from fastkernels_gym.agent import Proposal
from fastkernels_gym.evals import RunConfig, RunFolder, run_eval
from fastkernels_gym.results import Evaluation, Verdict

class Slow:
    name, llm = "scripted", None
    async def propose(self, task, history, *, sample=0):
        await asyncio.sleep(0.02)
        return Proposal(f"# {task.id} {len(history)}")
    async def aclose(self):
        pass

class Evaluator:
    async def evaluate_async(self, task, source, **options):
        return Evaluation(task, Verdict.WRONG_VALUE)

config = RunConfig("scripted", ("L1/rms_norm@tiny-llama",), samples=10, turns=20)
path = Path(sys.argv[1])
with RunFolder(path, config, resume=path.exists()) as folder:
    try:
        run_eval(Slow(), Evaluator(), folder, concurrency=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def wait_for_turns(path: Path, count: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the run does not get on")


def test_killed_and_interrupted_run_is_completed(scripted: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    for fatal, count in ((signal.SIGKILL, 20), (signal.SIGINT, 60)):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)]) as process:
            wait_for_turns(path / "rollouts.jsonl", count)
            process.send_signal(fatal)
            assert process.wait(30) == (130 if fatal == signal.SIGINT else -signal.SIGKILL)
    interrupted = json.loads((path / "summary.json").read_text())
    assert 60 <= interrupted["turns"] < 200 and interrupted["missing"] > 0
    summary = run(path, scripted.agent(script), scripted.evaluator(), resume=True, tasks=(TASK,), samples=10, turns=20)
    found = lines(path)
    assert len({line["key"] for line in found}) == len(found) == summary.turns == 200
    assert summary.missing == 0 and summary.verdicts["wrong_value"] == interrupted["turns"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", line["candidate_sha"]) for line in found)


def test_tasks_are_chosen_by_patterns_or_are_a_suite() -> None:
    assert {task.partition("/")[0] for task in choose_tasks((), "cpu")} == {"L1", "L2", "L3", "L4"}
    assert choose_tasks((), "cpu", "standard") == load_suite("standard", "cpu").tasks
    assert choose_tasks((TASK,), "cpu", "standard") == (TASK,)
    assert choose_tasks(("L1/rms_norm@tiny-llama", "L1/rms_*@tiny-llama"), "cpu") == (TASK,)
    with pytest.raises(UserError, match="no task|no operator"):
        choose_tasks(("L1/nothing@tiny-llama",), "cpu")


def test_run_without_work_is_refused(scripted: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        run(tmp_path / "run", scripted.agent(script), scripted.evaluator(), samples=0)
