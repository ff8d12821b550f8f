"""How far from rejection honest kernels are: their error ratios against the thresholds, over many draws of inputs.

python benchmarks/false_rejection.py --device cuda --runs 5

The corpus is tests/redteam/honest and the plain reference of every operator of the model up to L3. On a CPU, Triton is
interpreted, and what takes minutes so is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/redteam"))


@dataclass
class Found:
    """The worst of a kernel's runs."""

    kernel: str
    task: str
    runs: int = 0
    rejected: int = 0
    rms_error_ratio: float = 0.0
    max_error_ratio: float = 0.0
    worst: str = ""
    feedback: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--runs", type=int, default=3, help="of each kernel, with fresh weights and inputs of its own")
    parser.add_argument("--references", default="L[123]/*", help="operators whose plain reference is submitted too")
    parser.add_argument("--out", type=Path, help="JSON; the table goes beside it (default: benchmarks/results)")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    out = options.out or ROOT / f"benchmarks/results/{options.device}-false-rejection.json"
    found, device = measure(options.device, options.runs, options.references)
    write(out, found, device, options)


def measure(device: str, runs: int, references: str) -> tuple[list[Found], str]:
    from catalogue import MODELS, honest

    import fastkernels_gym as fk
    from fastkernels_gym.baselines.reference import ReferenceAgent

    corpus = [one for one in honest() if one.device in ("cpu", device) and not (one.slow and device == "cpu")]
    kernels = [(one.name, one.task_on(device), one.data) for one in corpus]
    for task in fk.list_tasks(f"{references}@{MODELS[device]}"):
        proposal = asyncio.run(ReferenceAgent().propose(fk.load_task(task), []))
        kernels.append(("plain reference", task, (proposal.source or "").encode()))
    found, name = [], ""
    with fk.Evaluator(device) as evaluator:  # type: ignore[arg-type]
        for kernel, task, source in kernels:
            one = Found(kernel, task)
            for _ in range(runs):
                result = evaluator.evaluate(task, source, measure="op", budget_s=0.1)
                name = result.device
                note(one, result)
            print(
                f"{one.kernel:22} {task:44} {one.rms_error_ratio:8.3f} {one.max_error_ratio:8.3f} {one.feedback}",
                flush=True,
            )
            found.append(one)
    return found, name


def note(one: Found, result: object) -> None:
    import fastkernels_gym as fk

    assert isinstance(result, fk.Evaluation)
    one.runs += 1
    if not result.correct:
        one.rejected += 1
        one.feedback = result.feedback[:300]
    if result.correctness is not None:
        if result.correctness.max_error_ratio > one.max_error_ratio:
            one.worst = result.correctness.worst
        one.rms_error_ratio = max(one.rms_error_ratio, result.correctness.rms_error_ratio)
        one.max_error_ratio = max(one.max_error_ratio, result.correctness.max_error_ratio)


def write(out: Path, found: list[Found], device: str, options: argparse.Namespace) -> None:
    import torch

    from fastkernels_gym.referee.numerics import MAX_RATIO, RMS_RATIO

    rejected, runs = sum(one.rejected for one in found), sum(one.runs for one in found)
    data = {
        "command": " ".join(["python", "benchmarks/false_rejection.py", *sys.argv[1:]]),
        "device": device,
        "torch": torch.__version__,
        "allowed": {"rms_error_ratio": RMS_RATIO, "max_error_ratio": MAX_RATIO},
        "rejected": rejected,
        "runs": runs,
        "kernels": [asdict(one) for one in found],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        f"# Honest kernels on {device}: {rejected} of {runs} evaluations rejected",
        "",
        f"`{data['command']}`. Error ratios are the worst of {options.runs} runs; "
        f"allowed are {RMS_RATIO:g} and {MAX_RATIO:g}.",
        "",
        "| kernel | task | RMS ratio | maximum ratio | rejected | worst at |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in found:
        ratios = f"{one.rms_error_ratio:.3f} | {one.max_error_ratio:.3f}"
        lines.append(f"| {one.kernel} | `{one.task}` | {ratios} | {one.rejected}/{one.runs} | {one.worst} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"{rejected} of {runs} rejected; {out}")


if __name__ == "__main__":
    main()
