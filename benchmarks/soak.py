"""Evaluations without end: honest kernels and attacks mixed at random, and what is left of them.

python benchmarks/soak.py --evaluations 200 --device cuda --limit-s 560

Every verdict is checked; after each evaluation, so are the evaluator's processes and the referee's open files, and its
resident memory is noted. Attacks that are known not to be contained are left out, unless --open. Whenever it ends, by
itself, at its limit or by Ctrl-C, the file holds what there is.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance

from fastkernels_gym.device import shown_gpu

sys.path.insert(0, str(ROOT / "tests/redteam"))


@dataclass
class Course:
    """What has happened so far."""

    device: str = ""
    seconds: list[float] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    rss_mib: list[int] = field(default_factory=list)
    left: dict[str, int | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "evaluations": len(self.seconds),
            "seconds": round(sum(self.seconds), 1),
            "verdicts": dict(sorted(self.verdicts.items())),
            "wrong": self.wrong,
            "left": self.left,
            "referee_rss_mib": self.rss_mib[:: max(1, len(self.rss_mib) // 50)],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="seconds after which no evaluation begins")
    parser.add_argument("--open", action="store_true", help="attacks that are known not to be contained too")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-soak.json")
    options = parser.parse_args()
    out = options.out or ROOT / f"benchmarks/results/{options.device}-soak.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    course, origin = Course(), provenance()
    try:
        soak(options, course)
    except KeyboardInterrupt:
        print("interrupted: the file holds what there is", flush=True)
    out.write_text(json.dumps({**origin, **course.to_dict()}, indent=1) + "\n")
    print(f"{len(course.seconds)} evaluations, {len(course.wrong)} wrong, {course.left}; {out}")
    sys.exit(1 if course.wrong else 0)


def soak(options: argparse.Namespace, course: Course) -> None:
    """Evaluates until there are as many as asked, or the limit is reached."""
    from catalogue import Traces, canaries, complaints, settled, submit

    import fastkernels_gym as fk

    begin, rng = time.monotonic(), random.Random(options.seed)
    kernels, hostile = corpus(options.device, with_open=options.open)
    decks = shuffled(kernels, rng), shuffled(hostile, rng)
    with canaries(), fk.Evaluator(options.device) as evaluator:
        for one in {one.task: one for one in kernels}.values():  # every session's first evaluation allocates
            submit(evaluator, one)
        first, used = Traces.take(), device_memory()
        for index in range(options.evaluations):
            if time.monotonic() - begin > options.limit_s:
                print(f"the limit of {options.limit_s:g} s", flush=True)
                break
            one = next(rng.choice(decks))
            before, began = Traces.take(), time.monotonic()
            results = submit(evaluator, one)
            course.seconds.append(time.monotonic() - began)
            found = [complaint for result in results for complaint in complaints(one, result)]
            found += settled(before)
            last = Traces.take()
            course.device = results[-1].device
            course.verdicts.update(f"{'attack' if one.row else 'honest'}: {result.verdict}" for result in results)
            course.rss_mib.append(last.rss_bytes >> 20)
            if found:
                course.wrong.append({"index": index, "submission": one.name, "wrong": found})
            course.left = {
                "processes": last.processes - first.processes,
                "descriptors": last.descriptors - first.descriptors,
                "referee_rss_mib": (last.rss_bytes - first.rss_bytes) >> 20,
                "device_memory_mib": None if used is None else (device_memory() or 0) - used,
            }
            place = f"{index + 1:4}/{options.evaluations} {time.monotonic() - begin:6.0f} s"
            print(f"{place}  {one.name:32} {results[-1].verdict:20} {'; '.join(found)}", flush=True)


def shuffled(submissions: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """Without end, each as often as any other, in an order that nobody knows."""
    while True:
        yield from rng.sample(submissions, len(submissions))


def corpus(device: str, *, with_open: bool) -> tuple[list[Any], list[Any]]:
    """The honest kernels and the attacks that one evaluator of the device can judge, in its usual deadlines.

    Without those that take a compiler a minute: a soak would be little else.
    """
    from catalogue import attacks, honest

    kernels = [one for one in honest() if one.device in ("cpu", device) and not (one.interpret and device == "cpu")]
    hostile = [one for one in attacks() if one.source is not None and not one.hurried and (with_open or not one.open)]
    kernels = [one for one in kernels if not one.compiles]
    return kernels, [one for one in hostile if one.device in ("cpu", device)]


def device_memory() -> int | None:
    """MiB in use on the first GPU that is shown; None without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={shown_gpu()}"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


if __name__ == "__main__":
    main()
