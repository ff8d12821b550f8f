"""Whole runs against a real server on the loopback interface: it fails in every way, or the run is killed."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from chat_server import Answer, ChatServer, events, failure, json_answer, streamed, text_chunk

from fastkernels_gym.agent import LLMFault
from fastkernels_gym.baselines.gpt import GPTAgent
from fastkernels_gym.baselines.openai_chat import OpenAIChat
from fastkernels_gym.evals import RunConfig, RunFolder, run_eval

TASKS = ("L1/rms_norm@tiny-llama", "L1/silu_and_mul@tiny-llama", "L2/llama_mlp@tiny-llama", "L4/llama@tiny-llama")


def good_reply(request: dict[str, Any]) -> Answer:
    """Depends on the request alone: the task, and how many turns it has had."""
    messages = request["messages"]
    title = next(line for line in messages[1]["content"].splitlines() if "@" in line)
    return streamed(f"```python\n# {title} {len(messages)}\n# earns ok 1.{len(messages)}\nclass Kernel:\n    pass\n```")


FAULTS = {
    LLMFault.TIMEOUT: Answer(b"", after_s=1.5),
    LLMFault.RATE_LIMITED: failure(429, "slow down", retry_after="0.01"),
    LLMFault.SERVER_ERROR: failure(500, "oops"),
    LLMFault.TRUNCATED: events([text_chunk("```py")], done=False),
    LLMFault.INVALID: json_answer("{ this is no JSON"),
    LLMFault.EMPTY_CHOICES: events([]),
    LLMFault.CONTENT_FILTER: events([text_chunk("I", None), text_chunk(None, "content_filter")]),
    LLMFault.OVERSIZED: events([text_chunk("x" * ((1 << 20) + 1), None), text_chunk(None, "stop")]),
    LLMFault.CONTEXT_OVERFLOW: failure(400, "This model's maximum context length is 8192 tokens."),
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]


def test_a_run_against_a_failing_server_is_complete_and_counts_every_fault(scripted: Any, tmp_path: Path) -> None:
    injected: Counter[str] = Counter()
    numbers = count()

    def reply(request: dict[str, Any]) -> Answer:
        number = next(numbers)
        if number % 2:
            return good_reply(request)
        fault = list(FAULTS)[number // 2 % len(FAULTS)]
        injected[fault] += 1
        return FAULTS[fault]

    config = RunConfig("gpt", TASKS, "some-llm", samples=4, turns=2)
    with ChatServer(reply) as server, RunFolder(tmp_path / "run", config) as folder:
        chat = OpenAIChat("some-llm", base_url=server.url, api_key="k", backoff_s=0.01, request_s=0.5)
        summary = run_eval(GPTAgent(chat, turns=2), scripted.evaluator(), folder, concurrency=4)
    found = lines(tmp_path / "run")
    assert (summary.turns, summary.lost, summary.missing) == (32, 0, 0)
    assert summary.verdicts["ok"] > 16
    assert len({line["key"] for line in found}) == len(found) == 32
    assert set(injected) == set(FAULTS)
    assert Counter(fault for line in found for fault in line["faults"]) == injected
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["faults"] == injected
    assert sum(line["usage"]["requests"] for line in found) == len(server.requests)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from fastkernels_gym.baselines.gpt import GPTAgent
from fastkernels_gym.baselines.openai_chat import OpenAIChat
from fastkernels_gym.evals import RunConfig, RunFolder, run_eval
from fastkernels_gym.results import Evaluation, Verdict

class Evaluator:
    async def evaluate_async(self, task, source, **options):
        await asyncio.sleep(0.02)
        return Evaluation(task, Verdict.WRONG_VALUE, feedback=f"no good: {len(source)}")

path, url, tasks = Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3].split(","))
config = RunConfig("gpt", tasks, "some-llm", samples=8, turns=3)
with RunFolder(path, config, resume=path.exists()) as folder:
    agent = GPTAgent(OpenAIChat("some-llm", base_url=url, api_key="k"), turns=3)
    run_eval(agent, Evaluator(), folder, concurrency=2)
"""


def test_a_killed_run_equals_an_unbroken_one_and_repeats_no_recorded_call(tmp_path: Path) -> None:
    def start(path: Path, server: ChatServer) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), server.url, ",".join(TASKS)])

    def outcome(path: Path) -> dict[str, tuple[str, str]]:
        return {line["key"]: (line["candidate_sha"], line["evaluation"]["feedback"]) for line in lines(path)}

    with ChatServer(good_reply) as server:
        assert start(tmp_path / "whole", server).wait(120) == 0
        planned = len(server.requests)
    kills = 0
    with ChatServer(good_reply) as server:
        for turns in (20, 70):
            with start(tmp_path / "killed", server) as process:
                journal = tmp_path / "killed" / "rollouts.jsonl"
                until = time.monotonic() + 60
                while not journal.exists() or journal.read_bytes().count(b"\n") < turns:
                    assert time.monotonic() < until and process.poll() is None
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
                kills += process.wait(30) == -signal.SIGKILL
        assert start(tmp_path / "killed", server).wait(120) == 0
        asked = len(server.requests)
    assert kills == 2 and planned == 96
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert len(lines(tmp_path / "killed")) == planned
    # A kill costs what was asked and not recorded: two under way, and two that waited for the evaluator.
    assert planned <= asked <= planned + kills * 4
