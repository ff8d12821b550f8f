"""Each kind of candidate gets the verdict that it deserves, and the evaluator lives on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fastkernels_gym as fk
from fastkernels_gym.results import Verdict

TASK = "L1/silu_and_mul@tiny-llama"
HONEST = """
import os, signal, time
import torch
from torch import nn

class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        {body}
"""


def candidate(body: str = "return torch.nn.functional.silu(gate) * up") -> str:
    return HONEST.format(body=body)


def judge(evaluator: fk.Evaluator, source: str | bytes) -> fk.Evaluation:
    return evaluator.evaluate(TASK, source, measure="op", budget_s=0.5)


def test_an_honest_kernel_is_paid(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, candidate())
    assert result.verdict is Verdict.OK, result.feedback
    assert result.reward > 0 and result.ladder[0].operator == "L1/silu_and_mul"
    assert result.correctness is not None and result.correctness.rounds >= 10
    assert fk.Evaluation.from_json(result.to_json()) == result


WRONG = {
    "a wrong value": (candidate("return torch.nn.functional.silu(up) * gate"), Verdict.WRONG_VALUE),
    "half precision in the dark": (
        candidate("return (torch.nn.functional.silu(gate.half()) * up.half()).float()"),
        Verdict.WRONG_VALUE,
    ),
    "the last row skipped": (
        candidate("out = torch.nn.functional.silu(gate) * up; out[-1] = 0; return out"),
        Verdict.WRONG_VALUE,
    ),
    "zeros": (candidate("return torch.zeros_like(gate)"), Verdict.WRONG_VALUE),
    "memory that nobody wrote": (candidate("return torch.full_like(gate, torch.nan)"), Verdict.UNWRITTEN_OUTPUT),
    "another dtype": (candidate("return (torch.nn.functional.silu(gate) * up).double()"), Verdict.WRONG_DTYPE),
    "another shape": (candidate("return (torch.nn.functional.silu(gate) * up)[None]"), Verdict.WRONG_SHAPE),
    "transposed memory": (
        candidate("return (torch.nn.functional.silu(gate) * up).T.contiguous().T"),
        Verdict.WRONG_SHAPE,
    ),
    "its input overwritten": (
        candidate("out = torch.nn.functional.silu(gate) * up; x.zero_(); return out"),
        Verdict.MUTATED_INPUT,
    ),
    "an exception": (candidate("raise ValueError('no')"), Verdict.RUNTIME_ERROR),
    "a killed process": (candidate("os.kill(os.getpid(), signal.SIGKILL); os._exit(1)"), Verdict.RUNTIME_ERROR),
    "an exit": (candidate("os._exit(0)"), Verdict.RUNTIME_ERROR),
    "an exit by exception": (candidate("raise SystemExit(0)"), Verdict.RUNTIME_ERROR),
    "a wrong class name": (candidate().replace("class SiluAndMul", "class SiluMul"), Verdict.INTERFACE_MISMATCH),
    "another signature": (
        candidate().replace("def forward(self, x)", "def forward(self, x, y)"),
        Verdict.INTERFACE_MISMATCH,
    ),
    "another constructor": (candidate().replace("*, compile_native=True", "size"), Verdict.INTERFACE_MISMATCH),
    "a parameter of its own": (
        candidate().replace("super().__init__()", "super().__init__(); self.w = nn.Parameter(torch.ones(1))"),
        Verdict.INTERFACE_MISMATCH,
    ),
    "no module of that name": ("import nothing_of_that_name\n" + candidate(), Verdict.LOAD_ERROR),
    "a syntax error": ("class SiluAndMul(", Verdict.LOAD_ERROR),
    "null bytes": (candidate().encode() + b"\0", Verdict.POLICY_REJECT),
    "a megabyte": ("#" * (1 << 20), Verdict.POLICY_REJECT),
    "the operator itself, imported": (
        "from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul as Base\nclass SiluAndMul(Base): pass",
        Verdict.LOAD_ERROR,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_has_its_verdict(evaluator: fk.Evaluator, name: str) -> None:
    source, verdict = WRONG[name]
    result = judge(evaluator, source)
    assert result.verdict is verdict, result.feedback
    assert result.reward == 0.0 and not result.correct and result.feedback.startswith(verdict)


def test_a_fault_leaves_the_evaluator_as_it_was(evaluator: fk.Evaluator) -> None:
    judge(evaluator, candidate("os.fork(); os._exit(0)"))
    assert judge(evaluator, candidate()).verdict is Verdict.OK


def test_a_slow_kernel_is_right_and_paid_less(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, candidate("time.sleep(0.002); return torch.nn.functional.silu(gate) * up"))
    assert result.verdict is Verdict.OK and 0 < result.reward < 0.5


@pytest.mark.xdist_group("strict")
def test_a_hanging_kernel_times_out(strict_evaluator: fk.Evaluator) -> None:
    assert judge(strict_evaluator, candidate("time.sleep(600)")).verdict is Verdict.TIMEOUT
    assert judge(strict_evaluator, candidate()).verdict is Verdict.OK


def test_the_environment_and_the_files_of_the_host_are_out_of_reach(
    evaluator: fk.Evaluator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = (
        "raise ValueError(str(dict(os.environ)) + open('/proc/1/environ').read() + str(os.listdir('/'))"
        " + str([os.path.exists(p) for p in %r]))"
    )
    paths = [os.path.expanduser("~/.bashrc"), __file__, str(tmp_path_factory.getbasetemp()), "/etc/passwd"]
    result = judge(evaluator, candidate(body % (paths,)))
    assert result.verdict is Verdict.RUNTIME_ERROR
    assert os.environ["HOST_API_KEY"] not in result.to_json() and "[False, False, False, False]" in result.feedback


def test_an_exception_without_bounds_is_trimmed(evaluator: fk.Evaluator) -> None:
    result = judge(evaluator, candidate("raise ValueError('x' * (1 << 24))"))
    assert result.verdict is Verdict.RUNTIME_ERROR and len(result.feedback) < 10_000


def test_headroom_is_paid_of_what_the_device_leaves(evaluator: fk.Evaluator) -> None:
    result = evaluator.evaluate(TASK, candidate(), reward="headroom", budget_s=0.5)
    assert result.verdict is Verdict.OK and result.reward_kind == "headroom"
    rung = result.ladder[0]
    assert rung.roofline_us is not None and 0 < rung.roofline_us < rung.baseline_us
    assert [r.operator for r in result.ladder] == ["L1/silu_and_mul", "L2/llama_mlp", "L3/llama_decoder"]
    assert result.e2e is not None and result.e2e.depth == (4, 4)


MODEL = """
from fastkernels_gym.tasks.baseline.L4.llama import LlamaModel
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead
from torch import nn

class LlamaForCausalLM(nn.Module):
    def __init__(self, config, prefix=""):
        super().__init__()
        self.model = LlamaModel(config, lambda c, p, r: LlamaDecoderLayer(c, p, r), "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)

    def forward(self, input_ids, positions):
        {body}

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
"""


SILENT = """
        state = self.model.embed_tokens(input_ids), None
        for layer in self.model.layers:
            state = layer(positions, *state)
        return self.model.norm(*state)[0]
"""


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("return self.model(input_ids, positions)", Verdict.OK),
        ("return self.model(input_ids, positions) * (1 if len(input_ids) in (128, 4) else 2)", Verdict.WRONG_VALUE),
        ("return self.model(input_ids.clamp(max=1000), positions)", Verdict.WRONG_VALUE),
        (SILENT, Verdict.UNWRITTEN_OUTPUT),
    ],
)
def test_a_whole_model_is_judged_by_its_logits_and_states_on_unseen_batches_too(
    evaluator: fk.Evaluator, body: str, verdict: Verdict
) -> None:
    result = evaluator.evaluate("L4/llama@tiny-llama", MODEL.format(body=body), budget_s=1)
    assert result.verdict is verdict, result.feedback
    assert result.ladder == () and (result.e2e is not None) == (verdict is Verdict.OK)
    assert verdict is not Verdict.UNWRITTEN_OUTPUT or "record_layer(index, hidden_states, residual)" in result.feedback


@pytest.mark.parametrize("family", ["gemma3", "qwen3_moe"])  # a loop of its own, a router
def test_a_whole_model_of_another_family_is_judged_link_by_link(evaluator: fk.Evaluator, family: str) -> None:
    task = fk.load_task(f"L4/{family}@tiny-{family.replace('_', '-')}")
    result = evaluator.evaluate(task.id, Path(task.operator.path).read_bytes(), budget_s=0.3)
    assert result.verdict is Verdict.OK, result.feedback
