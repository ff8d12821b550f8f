"""How far from rejection honest kernels are: their error ratios against the thresholds, over many draws of inputs.

python benchmarks/false_rejection.py --device cuda --runs 5 --limit-s 280

The corpus is tests/redteam/honest and the plain reference of every operator of the model up to L3. On a CPU, Triton is
interpreted, and what takes minutes so is left out. All kernels run once, then all again: whenever it ends, by itself,
at its limit or by Ctrl-C, every kernel has had about as many runs, and the files are as of the last evaluation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance

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
    rejections: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--runs", type=int, default=3, help="of each kernel, with inputs of its own")
    parser.add_argument("--kernels", nargs="+", default=["*"], help="names of tests/redteam/honest, globs")
    parser.add_argument(
        "--references", default="L[123]/*", help="operators whose plain reference is submitted too, a glob"
    )
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="seconds after which no evaluation begins")
    parser.add_argument("--out", type=Path, help="JSON; the table goes beside it (default: benchmarks/results)")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    out = options.out or ROOT / f"benchmarks/results/{options.device}-false-rejection.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    origin = provenance()
    try:
        for device in measure(options, found):
            write(out, found, device, origin)
    except KeyboardInterrupt:
        print("interrupted: the files hold what there is", flush=True)
    rejected, runs = sum(one.rejected for one in found), sum(one.runs for one in found)
    print(f"{rejected} of {runs} rejected; {out}")


def measure(options: argparse.Namespace, found: list[Found]) -> Iterator[str]:
    """Evaluates kernel after kernel into `found`; yields the device's name after each evaluation."""
    import fastkernels_gym as fk

    begin = time.monotonic()
    kernels = corpus(options.device, options.kernels, options.references)
    found += [Found(kernel, task) for kernel, task, _ in kernels]
    with fk.Evaluator(options.device) as evaluator:
        for index in range(options.runs * len(kernels)):
            if time.monotonic() - begin > options.limit_s:
                print(f"the limit of {options.limit_s:g} s", flush=True)
                return
            one, (kernel, task, source) = found[index % len(kernels)], kernels[index % len(kernels)]
            result = evaluator.evaluate(task, source, measure="op", budget_s=0.1)
            note(one, result)
            ratios = f"{one.rms_error_ratio:6.3f} {one.max_error_ratio:6.3f}"
            place = f"{index + 1:4}/{options.runs * len(kernels)} {time.monotonic() - begin:6.0f} s"
            print(f"{place}  {kernel:22} {task:44} {ratios}  {'' if result.correct else result.feedback}", flush=True)
            yield result.device


def corpus(device: str, names: Sequence[str], references: str) -> list[tuple[str, str, bytes]]:
    """Name, task and source of every honest kernel that the device can run in reasonable time."""
    from catalogue import MODELS, honest

    import fastkernels_gym as fk
    from fastkernels_gym.baselines.reference import ReferenceAgent

    kernels = [
        (one.name, one.task_on(device), one.data)
        for one in honest()
        if any(fnmatchcase(one.name, name) for name in names) and one.device in ("cpu", device)
    ]
    for task in fk.list_tasks(f"{references}@{MODELS[device]}") if references else ():
        proposal = asyncio.run(ReferenceAgent().propose(fk.load_task(task), []))
        kernels.append(("plain reference", task, (proposal.source or "").encode()))
    return kernels


def note(one: Found, result: Any) -> None:
    one.runs += 1
    if not result.correct:
        one.rejected += 1
        one.rejections.append(result.feedback[:300])
    if result.correctness is not None:
        if result.correctness.max_error_ratio > one.max_error_ratio:
            one.worst = result.correctness.worst
        one.rms_error_ratio = max(one.rms_error_ratio, result.correctness.rms_error_ratio)
        one.max_error_ratio = max(one.max_error_ratio, result.correctness.max_error_ratio)


def write(out: Path, found: list[Found], device: str, origin: dict[str, str]) -> None:
    from fastkernels_gym.referee.numerics import MAX_RATIO, RMS_RATIO

    rejected, runs = sum(one.rejected for one in found), sum(one.runs for one in found)
    data = {
        **origin,
        "device": device,
        "allowed": {"rms_error_ratio": RMS_RATIO, "max_error_ratio": MAX_RATIO},
        "rejected": rejected,
        "runs": runs,
        "kernels": [asdict(one) for one in found],
    }
    out.write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        f"# Honest kernels on {device}: {rejected} of {runs} evaluations rejected",
        "",
        f"`{origin['command']}`, {origin['date']}, commit {origin['commit']}, torch {origin['torch']},",
        f"triton {origin['triton']}. Error ratios are the worst of a kernel's runs;",
        f"allowed are {RMS_RATIO:g} by RMS and {MAX_RATIO:g} by maximum.",
        "",
        "| kernel | task | RMS ratio | maximum ratio | rejected | worst at |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in (one for one in found if one.runs):
        ratios = f"{one.rms_error_ratio:.3f} | {one.max_error_ratio:.3f}"
        lines.append(f"| {one.kernel} | `{one.task}` | {ratios} | {one.rejected}/{one.runs} | {one.worst} |")
    if left := [f"`{one.task}` by {one.kernel}" for one in found if not one.runs]:
        lines += ["", f"Not reached: {', '.join(left)}."]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
