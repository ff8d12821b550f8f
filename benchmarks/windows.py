"""What windows of two equal players take, and by how much they differ: what the clock's bounds go by.

python benchmarks/windows.py --device cuda --tasks 'L1/*@llama-3.1-8b' --budget 3

The baseline's own file is the candidate. Every row is one case in one evaluation, players of its own each time: windows
of one call and of the long burst, medians and standard deviations (by quartiles) in microseconds, of the baseline's
player, of the candidate's, and of their difference within a pair. `furthest` is the largest difference of two players'
windows of one call, as a share of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import ROOT, device_slug, facts

from fastkernels_gym import list_tasks, load_task
from fastkernels_gym.referee import trial
from fastkernels_gym.referee.clock import Block, CallTime, Duel
from fastkernels_gym.referee.referee import Referee
from fastkernels_gym.request import EvalRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tasks", default="L1/rms_norm@tiny-llama", help="a glob over task ids")
    parser.add_argument("--measure", choices=["op", "e2e"], default="op")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of timing, an evaluation")
    parser.add_argument("--repetitions", type=int, default=1, help="of every task")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-windows-of-calls.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    out = options.out or ROOT / f"benchmarks/results/{device_slug(device)}-windows-of-calls.json"
    duels: list[Duel] = []
    measure = trial.measure

    def overheard(of: Sequence[Duel], seconds: float, half_width: float) -> list[CallTime]:
        duels.extend(of)
        return measure(of, seconds, half_width)

    trial.measure = overheard
    referee, rows = Referee(options.device), []
    try:
        for task in [load_task(name) for name in list_tasks(options.tasks)] * options.repetitions:
            duels.clear()
            source = Path(task.operator.path).read_text(encoding="utf-8")
            referee.evaluate(EvalRequest(task.id, source, options.measure, budget_s=options.budget))
            rows += [{"task": task.id, **row(duel)} for duel in duels]
            shares = [abs(r["one"]["apart"]["median"]) / r["one"]["baseline"]["median"] for r in rows if "one" in r]
            furthest = max(shares, default=0.0)
            found = {**facts(device), "furthest": round(furthest, 4), "rows": rows}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{task.id}: {len(duels)} programs; two players at most {furthest:.1%} apart", flush=True)
    finally:
        referee.close()


def row(duel: Duel) -> dict[str, Any]:
    """A case's windows."""
    samples = duel.samples
    found = {"calls": samples.calls, "burst": windows(samples.long)}
    return {**found, "one": windows([*samples.short, *samples.single])} if samples.calls > 1 else found


def windows(blocks: Sequence[Block]) -> dict[str, Any]:
    """Of windows of one length."""
    pairs = np.asarray(blocks).reshape(-1, 2) * 1e6
    kinds = {"baseline": pairs[:, 0], "candidate": pairs[:, 1], "apart": pairs[:, 1] - pairs[:, 0]}
    return {"pairs": len(pairs), **{kind: spread(values) for kind, values in kinds.items()}}


def spread(values: Any) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": round(float(middle), 1), "sd": round(float(high - low) / 1.349, 1)}


if __name__ == "__main__":
    main()
