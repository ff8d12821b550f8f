"""The evaluation loop at size: killed and resumed, beside an instant LLM, and over ten thousand turns.

    python benchmarks/loop.py [--tasks 16] [--samples 4] [--turns 3] [--kills 10] [--replayed 10000]

1. A run of `fk-gym eval --agent gpt` against a loopback server that answers at once, by a script (`scripted_llm.py`),
   with real evaluations on the CPU: the share of wall time in which the evaluator worked.
2. The same run, killed (SIGKILL) at random moments and resumed: its results against the unbroken run's, and the calls
   that were repeated. Figures recomputed from its turns are held against its summary and its report.
3. Thousands of turns replayed beside a judge that answers at once: the loop's peak memory.

Run folders, and what a finished part found, stay in --work: cut short, the benchmark goes on with the next part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastkernels_gym.catalog import list_tasks
from fastkernels_gym.evals.archive import read_run
from fastkernels_gym.evals.report import write_report

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / "agents"), str(TESTS / "evals")]

import scripted_llm  # noqa: E402
from agreement import disagreements  # noqa: E402
from chat_server import Answer, ChatServer, plain  # noqa: E402


def reply(request: dict[str, Any]) -> Answer:
    """What the scripted LLM says, at once."""
    return plain(scripted_llm.reply(request), scripted_llm.NAME)


def once(folder: Path, part: Callable[[], Any]) -> Any:
    """A part's result, which is kept beside its folder; what is left of one that was cut short goes."""
    done = folder.with_suffix(".json")
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        found = part()
        done.write_text(json.dumps(found))
    return json.loads(done.read_text())


def command(server: ChatServer, folder: Path, tasks: list[str], args: argparse.Namespace) -> list[str]:
    program = [sys.executable, "-c", "from fastkernels_gym.cli import main; main()", "eval", "--agent", "gpt"]
    program += ["--model", scripted_llm.NAME, "--base-url", server.url, "--device", "cpu", "--seed", "0"]
    program += ["--tasks", ",".join(tasks), "--samples", str(args.samples), "--turns", str(args.turns)]
    program += ["--measure", args.measure, "--budget", str(args.budget), "--out", str(folder)]
    return [*program, *(["--resume"] if folder.exists() else [])]


def turns(folder: Path) -> list[dict[str, Any]]:
    journal = folder / "rollouts.jsonl"
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().splitlines(True) if line.endswith(b"\n")]


def kernels(folder: Path) -> dict[str, str | None]:
    """The kernel of each turn; none where the LLM gave none."""
    return {turn["key"]: turn["candidate_sha"] for turn in turns(folder)}


def verdicts(folder: Path) -> dict[str, str | None]:
    """The verdict on each turn's kernel."""
    return {turn["key"]: (turn["evaluation"] or {}).get("verdict") for turn in turns(folder)}


def unbroken(folder: Path, tasks: list[str], args: argparse.Namespace) -> dict[str, Any]:
    with ChatServer(reply) as server:
        began = time.monotonic()
        done = subprocess.run(command(server, folder, tasks, args), capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr[-2000:]
        found = turns(folder)
        # One slot: what an evaluation waited in its queue is not its work. From the first one's end on: the evaluator
        # starts once, however long the run.
        judged = sorted((turn for turn in found if turn["evaluation"]), key=lambda turn: turn["elapsed"])
        work = [turn["evaluation"]["seconds"] for turn in judged]
        busy = sum(seconds["total"] - seconds["queue"] for seconds in work[1:])
        ends = [turn["elapsed"] for turn in judged]
        return {
            "turns": len(found),
            "calls": len(server.requests),
            "seconds": round(seconds, 1),
            "seconds_after_the_first_evaluation": round(max(ends) - min(ends), 1),
            "evaluating_seconds": round(busy, 1),
            "share": round(busy / (max(ends) - min(ends)), 4),
        }


def killed(folder: Path, tasks: list[str], args: argparse.Namespace, planned: int) -> dict[str, Any]:
    draw, kills = random.Random(0), 0
    with ChatServer(reply) as server:
        for moment in sorted(draw.sample(range(1, planned), args.kills)):
            with subprocess.Popen(command(server, folder, tasks, args), stderr=subprocess.DEVNULL) as process:
                while process.poll() is None and len(turns(folder)) < moment:
                    time.sleep(draw.uniform(0.005, 0.1))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            print(f"killed {kills} times, {len(turns(folder))} of {planned} turns", file=sys.stderr, flush=True)
        subprocess.run(command(server, folder, tasks, args), capture_output=True, check=True)
        return {"kills": kills, "turns": len(turns(folder)), "calls": len(server.requests)}


REPLAY = """
import asyncio, json, re, sys
from pathlib import Path
from fastkernels_gym.baselines.replay import ReplayAgent
from fastkernels_gym.evals import RunConfig, RunFolder, run_eval
from fastkernels_gym.results import Evaluation

run, out, task, samples = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

class Judge:
    evaluation = Evaluation.from_json(sys.argv[5])
    async def evaluate_async(self, task, source, **options):
        return self.evaluation

def peak_kib():
    # Not ru_maxrss, in which the memory of the process that started this one survives.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak_kib()
with RunFolder(out, RunConfig("replay", (task,), samples=samples)) as folder:
    summary = run_eval(ReplayAgent(run), Judge(), folder, concurrency=256)
print(json.dumps({"turns": summary.turns, "mib_before": before >> 10,
                  "mib_peak": peak_kib() >> 10}))
"""


def replayed(folder: Path, source: Path, count: int) -> list[dict[str, Any]]:
    """The same turn of a run, `count` times over, as samples of one task; its evaluation is the judge's answer."""
    turn = next(turn for turn in turns(source) if turn["candidate_sha"])
    found = []
    for samples in (count // 10, count):
        run = folder / f"run-{samples}"
        (run / "kernels").mkdir(parents=True)
        sha = turn["candidate_sha"]
        (run / "kernels" / f"{sha}.py").write_bytes((source / "kernels" / f"{sha}.py").read_bytes())
        with (run / "rollouts.jsonl").open("w") as journal:
            for sample in range(samples):
                again = {**turn, "key": f"{turn['task']}#{sample}.0@x", "sample": sample, "turn": 0}
                journal.write(json.dumps(again) + "\n")
        arguments = [str(run), str(folder / f"out-{samples}"), turn["task"], str(samples)]
        program = [sys.executable, "-c", REPLAY, *arguments, json.dumps(turn["evaluation"])]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--replayed", type=int, default=10_000)
    parser.add_argument("--measure", default="e2e")
    parser.add_argument("--budget", type=float, default=2.0)
    parser.add_argument("--work", type=Path, default=Path(".cache/loop"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loop.json"))
    args = parser.parse_args()
    tasks = list_tasks("*@tiny-llama")
    tasks = [*tasks[: args.tasks - 1], tasks[-1]]  # every level, the model included
    whole, broken = args.work / "whole", args.work / "killed"
    complete = once(whole, lambda: unbroken(whole, tasks, args))
    resumed = once(broken, lambda: killed(broken, tasks, args, complete["turns"]))
    write_report(read_run(broken), broken / "report.html")
    memory = once(args.work / "replayed", lambda: replayed(args.work / "replayed", whole, args.replayed))
    document = {
        "command": " ".join(["python", "benchmarks/loop.py", *sys.argv[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "unbroken": complete,
        "killed": {
            **resumed,
            "equal": kernels(whole) == kernels(broken),
            # Not the loop's doing, but the judge's on a busy machine, or chance that a kernel itself leaves room for.
            "verdicts_that_differ": sum(verdicts(broken)[key] != verdict for key, verdict in verdicts(whole).items()),
            "calls_repeated": resumed["calls"] - complete["calls"],
            "recomputation_disagrees_in": disagreements(broken),
        },
        "replayed": memory,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
