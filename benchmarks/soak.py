"""Evaluations without end: honest kernels and attacks mixed at random, and what is left of them.

python benchmarks/soak.py --evaluations 200 --device cuda

Every verdict is checked; after each evaluation, so are the evaluator's processes and the referee's open files, and its
resident memory is noted. Attacks that are known not to be contained are left out, unless --open.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/redteam"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--open", action="store_true", help="attacks that are known not to be contained too")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-soak.json")
    options = parser.parse_args()
    out = options.out or ROOT / f"benchmarks/results/{options.device}-soak.json"
    result = soak(options.device, options.evaluations, random.Random(options.seed), with_open=options.open)
    result = {"command": " ".join(["python", "benchmarks/soak.py", *sys.argv[1:]]), **result}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    wrong = result["wrong"]
    print(f"{options.evaluations} evaluations, {len(wrong)} wrong, {result['left']}; {out}")
    sys.exit(1 if wrong else 0)


def soak(device: str, evaluations: int, rng: random.Random, *, with_open: bool) -> dict[str, Any]:
    from catalogue import Traces, attacks, canaries, complaints, honest, settled, submit

    import fastkernels_gym as fk

    kernels = [one for one in honest() if one.device in ("cpu", device) and not (one.interpret and device == "cpu")]
    kernels = [one for one in kernels if not one.slow]
    hostile = [one for one in attacks() if one.source is not None and not one.hurried and (with_open or not one.open)]
    hostile = [one for one in hostile if one.device in ("cpu", device)]
    verdicts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    memory: list[int] = []
    seconds: list[float] = []
    with canaries(), fk.Evaluator(device) as evaluator:  # type: ignore[arg-type]
        for one in {one.task: one for one in kernels}.values():  # every session's first evaluation allocates
            submit(evaluator, one)
        first = Traces.take()
        used = device_memory()
        for index in range(evaluations):
            one = rng.choice(rng.choice((kernels, hostile)))
            before, begin = Traces.take(), time.monotonic()
            results = submit(evaluator, one)
            seconds.append(time.monotonic() - begin)
            found = [complaint for result in results for complaint in complaints(one, result)]
            found += settled(before)
            verdicts.update(f"{'attack' if one.row else 'honest'}: {result.verdict}" for result in results)
            memory.append(Traces.take().rss_bytes)
            if found:
                wrong.append({"index": index, "submission": one.name, "wrong": found})
            print(f"{index:4} {one.name:32} {results[-1].verdict:20} {'; '.join(found)}", flush=True)
        last = Traces.take()
        name = results[-1].device
        left = {
            "processes": last.processes - first.processes,
            "descriptors": last.descriptors - first.descriptors,
            "referee_rss_mib": (last.rss_bytes - first.rss_bytes) >> 20,
            "device_memory_mib": None if used is None else (device_memory() or 0) - used,
        }
    return {
        "device": name,
        "evaluations": evaluations,
        "seconds": round(sum(seconds), 1),
        "verdicts": dict(sorted(verdicts.items())),
        "wrong": wrong,
        "left": left,
        "referee_rss_mib": [value >> 20 for value in memory[:: max(1, evaluations // 50)]],
    }


def device_memory() -> int | None:
    """MiB in use on the first GPU; None without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


if __name__ == "__main__":
    main()
