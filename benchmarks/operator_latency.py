"""How long an evaluation takes from submission to result, and how closely it measures, over fresh evaluations.

python benchmarks/operator_latency.py --device cuda

By itself: `Evaluator.evaluate` of a Triton SiluAndMul, warm, with `measure="op"`, a new source each time, so that its
JIT compile is counted; on a GPU at [4096, 28672] bf16. The compile is timed here, by the same kernel under yet another
name on the same shape, and taken off. End to end: the same candidate at full depth, for each budget. On a CPU it is
plain PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from provenance import ROOT, provenance

import fastkernels_gym as fk

COMPARISON = ROOT / "benchmarks/compare_kernelbench.md"
TASKS = {"cpu": "L1/silu_and_mul@tiny-llama", "cuda": "L1/silu_and_mul@llama-3.1-8b"}
ALONE = {"cpu": ":tiny/prefill", "cuda": ":prefill-4k"}
SHAPE = (4096, 28672)
TRITON = """
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def gated_NONCE(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    gate = tl.load(x_ptr + row * 2 * size + column, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + column, mask=mask).to(tl.float32)
    tl.store(out_ptr + row * size + column, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=mask)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        x, size = x.contiguous(), x.shape[-1] // 2
        out = torch.empty(*x.shape[:-1], size, dtype=x.dtype, device=x.device)
        gated_NONCE[(out.numel() // size, triton.cdiv(size, 2048))](x, out, size, BLOCK=2048)
        return out
"""
PLAIN = """
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):  # NONCE
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation: seconds of wall time, and what it found."""

    seconds: float
    evaluation: fk.Evaluation

    def to_dict(self) -> dict[str, Any]:
        estimate = self.evaluation.op if self.evaluation.reward_kind == "op" else self.evaluation.e2e
        return {
            "seconds": round(self.seconds, 3),
            "verdict": str(self.evaluation.verdict),
            "feedback": "" if estimate else self.evaluation.feedback[:300],
            "speedup": estimate.speedup if estimate else None,
            "half_width": estimate.half_width if estimate else None,
            "stable": self.evaluation.stable,
            "timing_s": round(self.evaluation.seconds.timing, 3),
            "build_s": round(self.evaluation.seconds.build, 3),
            "correctness_s": round(self.evaluation.seconds.correctness, 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--evaluations", type=int, default=12, help="of the operator by itself")
    parser.add_argument("--op-budget", type=float, default=0.5, help="seconds of timing, of the operator by itself")
    parser.add_argument("--e2e-budgets", type=float, nargs="*", default=[10, 30], help="seconds of timing, end to end")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-operator-latency.json")
    parser.add_argument("--figures", action="store_true", help="measure nothing: write the figures of earlier runs")
    options = parser.parse_args()
    if options.figures:
        write_figures()
        return
    out = options.out or ROOT / f"benchmarks/results/{options.device}-operator-latency.json"
    task, origin = TASKS[options.device], provenance()
    with fk.Evaluator(options.device) as evaluator:
        evaluate(evaluator, options.device, task + ALONE[options.device], "op", options.op_budget)  # the model's first
        alone = [
            evaluate(evaluator, options.device, task + ALONE[options.device], "op", options.op_budget)
            for _ in range(options.evaluations)
        ]
        compile_s = compile_seconds() if options.device == "cuda" else 0.0
        data = {
            **origin,
            "device": alone[0].evaluation.device,
            "op": {"task": task + ALONE[options.device], **summary(alone, compile_s)},
            "e2e": [],
        }
        write(out, data)
        for index, budget in enumerate(options.e2e_budgets):
            if index == 0:
                evaluate(evaluator, options.device, task, "e2e", 0.5)
            one = evaluate(evaluator, options.device, task, "e2e", budget)
            data["e2e"].append({"task": task, "budget_s": budget, **one.to_dict()})
            write(out, data)
    write_figures()
    print(json.dumps({**data, "op": {k: v for k, v in data["op"].items() if k != "evaluations"}}, indent=1))


def write(out: Path, data: dict[str, Any]) -> None:
    """Writes what there is: whoever is interrupted keeps it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1) + "\n")


def evaluate(evaluator: fk.Evaluator, device: str, task: str, measure: Any, budget_s: float) -> Measured:
    source = (TRITON if device == "cuda" else PLAIN).replace("NONCE", uuid4().hex)
    begin = time.monotonic()
    evaluation = evaluator.evaluate(task, source, measure=measure, budget_s=budget_s)
    return Measured(time.monotonic() - begin, evaluation)


def compile_seconds() -> float:
    """What the candidate's own first call takes over its second, on the benchmark's shape, nothing of it cached."""
    x = torch.empty(SHAPE, dtype=torch.bfloat16, device="cuda")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(6):
            name = f"gated_{uuid4().hex}"
            os.environ["TRITON_CACHE_DIR"] = f"{folder}/{name}"  # with what launches it, as in a fresh player
            path = Path(folder, f"{name}.py")
            path.write_text(TRITON.replace("gated_NONCE", name))
            spec = spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            operator, times = module.SiluAndMul(), []
            for _ in range(2):
                begin = time.monotonic()
                operator(x)
                torch.cuda.synchronize()
                times.append(time.monotonic() - begin)
            found.append(times[0] - times[1])
    return statistics.median(found[1:])  # the first loads the compiler too, which a zygote has loaded


def summary(measured: list[Measured], compile_s: float) -> dict[str, Any]:
    rows = [one.to_dict() for one in measured]
    speedups = [row["speedup"] for row in rows if row["speedup"] is not None]
    seconds = statistics.median(row["seconds"] for row in rows)
    return {
        "seconds": round(seconds, 3),
        "compile_s": round(compile_s, 3),
        "seconds_besides_compile": round(seconds - compile_s, 3),
        "half_width": statistics.median(row["half_width"] for row in rows if row["half_width"] is not None),
        "speedup": statistics.median(speedups),
        "speedup_sd": statistics.stdev(speedups) if len(speedups) > 1 else None,
        "evaluations": rows,
    }


def write_figures() -> None:
    """Puts what all runs have measured into the comparison."""
    lines = [
        "| device | date | op: seconds, of which compile | half-width | sd of speedup | e2e: budget, half-width |",
        "|---|---|---|--:|--:|---|",
    ]
    for path in sorted((ROOT / "benchmarks/results").glob("*-operator-latency.json")):
        data = json.loads(path.read_text())
        op = data["op"]
        whole = "; ".join(f"{one['budget_s']:g} s, {percent(one['half_width'])}" for one in data["e2e"])
        seconds = f"{op['seconds']:.2f}, {op['compile_s']:.2f}"
        spread = f"{percent(op['half_width'])} | {percent(op['speedup_sd'])}"
        lines.append(f"| {data['device']} | {data['date']} | {seconds} | {spread} | {whole} |")
    text = COMPARISON.read_text(encoding="utf-8")
    before, rest = text.split("<!-- figures -->")
    _, after = rest.split("<!-- end of figures -->")
    table = "\n".join(lines) if len(lines) > 2 else "None yet."
    COMPARISON.write_text(f"{before}<!-- figures -->\n{table}\n<!-- end of figures -->{after}", encoding="utf-8")


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


if __name__ == "__main__":
    main()
