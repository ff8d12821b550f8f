"""Is a known slow-down measured at its true size? A kernel that does a known share of its work once more.

python benchmarks/slowdown.py --device cuda --repetitions 6 --limit-s 560

On a GPU the candidate is a Triton SiluAndMul that processes further rows, the first ones again, into memory of its own.
A kernel's start and end take their time whatever the rows, so what a share of d more rows costs is measured beforehand,
in this process, by CUDA events: bursts with and without them by turns, their slope over the number of calls. On a CPU,
where small tensors take what Python takes, it computes the whole answer 5 times, or (1 + d) times 5; the clock aims at
5 % there, so the steps are wider. Each is held against the same kernel at d = 0 of the same repetition: the expected
ratio is what d is known to cost, and it is covered where it lies in the 95 % interval of the measured one. Wide
intervals cover anything: the file says how wide they were, and a machine that does other work gives no others.

End to end the expected ratio follows from the operator's share of a pass at d = 0, as the ladder measured it: with its
inputs out of cache, where a pass may find them in it. The share is small, so the steps are larger.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import runpy
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from provenance import ROOT, provenance

import fastkernels_gym as fk

_CALLS, _TURNS, _CACHE_BYTES = 9, 60, 1 << 28  # of a long burst; bursts of each kind; over any cache
TRITON = """
import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def gated(x_ptr, out_ptr, scratch_ptr, rows, size, BLOCK: tl.constexpr):
    program, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = program % rows
    mask = column < size
    gate = tl.load(x_ptr + row * 2 * size + column, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + column, mask=mask).to(tl.float32)
    out = (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + program * size + column, out, mask=mask & (program < rows))
    tl.store(scratch_ptr + (program - rows) * size + column, out, mask=mask & (program >= rows))


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        x, size = x.contiguous(), x.shape[-1] // 2
        out = torch.empty(*x.shape[:-1], size, dtype=x.dtype, device=x.device)
        rows = out.numel() // size
        total = round(rows * (1 + SLOWER))
        scratch = torch.empty(max(1, total - rows), size, dtype=x.dtype, device=x.device)
        gated[(total, triton.cdiv(size, 2048))](x, out, scratch, rows, size, BLOCK=2048)
        return out
"""
REPEATED = """
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        for _ in range(round(5 * (1 + SLOWER))):
            gate, up = x.chunk(2, dim=-1)
            out = silu(gate) * up
        return out
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is slowed down, by how much, and how long it is timed; on a GPU the shape of its input, too."""

    task: str
    source: str
    measure: Literal["op", "e2e"]
    slower: tuple[float, ...]
    budget_s: float
    shape: tuple[int, int] = (0, 0)


PLANS = {
    "cpu": [Plan("L1/silu_and_mul@tiny-llama:tiny/prefill", REPEATED, "op", (0.2, 0.4, 1.0), 2.0)],
    "cuda": [
        Plan("L1/silu_and_mul@llama-3.1-8b:prefill-4k", TRITON, "op", (0.01, 0.02, 0.05, 0.1), 1.0, (4096, 28672)),
        Plan("L1/silu_and_mul@llama-3.1-8b:chat/prefill", TRITON, "e2e", (1.0, 2.0, 4.0), 10.0, (2048, 28672)),
    ],
}


@dataclass
class Found:
    """The repetitions of one step."""

    task: str
    measure: str
    slower: float
    ratios: list[dict[str, Any]] = field(default_factory=list)

    def add(self, expected: float, plain: fk.Evaluation, slowed: fk.Evaluation) -> str:
        """Notes one repetition; returns a line about it."""
        before, after = _estimate(plain), _estimate(slowed)
        measured = after.speedup / before.speedup
        half = math.hypot(_half_width(before), _half_width(after))
        low, high = measured * math.exp(-half), measured * math.exp(half)
        covered = low <= expected <= high
        self.ratios.append(
            {
                "expected": round(expected, 5),
                "measured": round(measured, 5),
                "ci95": [round(low, 5), round(high, 5)],
                "covered": covered,
                "half_width": round(half, 5),
                "stable": plain.stable and slowed.stable,
            }
        )
        step = f"{self.measure:4} +{self.slower:.0%}  expected {expected:.4f}, measured {measured:.4f}"
        return f"{step} [{low:.4f}, {high:.4f}]{'' if covered else ', NOT COVERED'}"

    def to_dict(self) -> dict[str, Any]:
        shares = [ratio["measured"] / ratio["expected"] for ratio in self.ratios]
        return {
            "task": self.task,
            "measure": self.measure,
            "slower": self.slower,
            "covered": sum(ratio["covered"] for ratio in self.ratios),
            "repetitions": len(self.ratios),
            "mean_measured_over_expected": round(sum(shares) / len(shares), 5) if shares else None,
            "ratios": self.ratios,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repetitions", type=int, default=6, help="of every step")
    parser.add_argument("--measure", choices=["op", "e2e"], help="only this; default: all that the device has")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="seconds after which no evaluation begins")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-slowdown.json")
    options = parser.parse_args()
    out = options.out or ROOT / f"benchmarks/results/{options.device}-slowdown.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    plans = [plan for plan in PLANS[options.device] if options.measure in (None, plan.measure)]
    found = {(plan, d): Found(plan.task, plan.measure, d) for plan in plans for d in plan.slower}
    origin, deadline = provenance(), time.monotonic() + options.limit_s
    known = {(plan, d): _cost(plan, d) for plan, d in found}
    try:
        with fk.Evaluator(options.device) as evaluator:
            for plan in plans:
                _judge(evaluator, plan, 0.0)  # a session's first evaluation builds the model
            for plan in plans * options.repetitions:
                device = _repeat(evaluator, plan, found, known, deadline)
                out.write_text(json.dumps({**origin, "device": device, **_summary(found)}, indent=1) + "\n")
    except KeyboardInterrupt:
        print("interrupted: the file holds what there is", flush=True)
    total = _summary(found)
    print(f"{total['covered']} of {total['measured']} covered, by ± {total['median_half_width']} at the median; {out}")


def _repeat(
    evaluator: fk.Evaluator,
    plan: Plan,
    found: dict[tuple[Plan, float], Found],
    known: dict[tuple[Plan, float], float],
    deadline: float,
) -> str:
    """Measures d = 0 and every step of a plan once, in random order but for the first; returns the device's name."""
    plain = _judge(evaluator, plan, 0.0)
    for slower in random.sample(plan.slower, len(plan.slower)):
        if time.monotonic() > deadline:
            break
        slowed = _judge(evaluator, plan, slower)
        if plain.correct and slowed.correct:
            print(found[plan, slower].add(_expected(plan, plain, known[plan, slower]), plain, slowed), flush=True)
        else:
            print(f"{plan.measure} +{slower:.0%}: {plain.verdict}, {slowed.verdict}: {slowed.feedback}", flush=True)
    return plain.device


def _judge(evaluator: fk.Evaluator, plan: Plan, slower: float) -> fk.Evaluation:
    source = f"SLOWER = {slower}\n{plan.source}"
    return evaluator.evaluate(plan.task, source, measure=plan.measure, budget_s=plan.budget_s)


def _expected(plan: Plan, plain: fk.Evaluation, cost: float) -> float:
    """The true ratio of speedups: how much longer the operator takes, times its share of what is measured."""
    if plan.measure == "op":
        return 1 / (1 + cost)
    assert plain.e2e is not None and plain.op is not None
    return 1 / (1 + cost * plain.op.candidate_us / 1000 / plain.e2e.candidate_ms)


def _cost(plan: Plan, slower: float) -> float:
    """By what share of its time a kernel takes longer for this share of further rows."""
    if plan.source is not TRITON:
        return slower
    inputs = [torch.randn(plan.shape, dtype=torch.bfloat16, device="cuda") for _ in range(_CALLS)]
    bursts = [graph for d in (0.0, slower) for graph in _bursts(plan, d, inputs)]
    cache = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device="cuda")
    taken: list[list[float]] = [[] for _ in bursts]
    for _ in range(_TURNS):
        for index in random.sample(range(len(bursts)), len(bursts)):
            cache.zero_()  # or the last burst's inputs would be found there
            taken[index].append(_event_seconds(bursts[index]))
    short, long, short_slowed, long_slowed = map(statistics.median, taken)
    torch.cuda.empty_cache()
    return (long_slowed - short_slowed) / (long - short) - 1


def _bursts(plan: Plan, slower: float, inputs: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, ...]:
    """Graphs of one call, and of all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"slower_{round(slower * 1000)}.py")
        path.write_text(f"SLOWER = {slower}\n{plan.source}")
        operator = runpy.run_path(str(path))["SiluAndMul"]()
        operator(inputs[0])
        graphs = tuple(torch.cuda.CUDAGraph() for _ in range(2))
        for graph, some in zip(graphs, (inputs[:1], inputs), strict=True):
            with torch.cuda.graph(graph):
                for x in some:
                    operator(x)
    return graphs


def _event_seconds(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _estimate(evaluation: fk.Evaluation) -> Any:
    return evaluation.op if evaluation.reward_kind == "op" else evaluation.e2e


def _half_width(estimate: Any) -> float:
    """Half the width of an interval of ratios, as a logarithm."""
    low, high = estimate.ci95
    return math.log(high / low) / 2


def _summary(found: dict[tuple[Plan, float], Found]) -> dict[str, Any]:
    ratios = [ratio for one in found.values() for ratio in one.ratios]
    return {
        "measured": len(ratios),
        "covered": sum(ratio["covered"] for ratio in ratios),
        "median_half_width": statistics.median(ratio["half_width"] for ratio in ratios) if ratios else None,
        "steps": [one.to_dict() for one in found.values()],
    }


if __name__ == "__main__":
    main()
