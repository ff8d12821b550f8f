"""What launching kernels costs the host: the baseline's launcher against Triton's own, one kernel and a whole prefill.

python benchmarks/launch_cost.py --models gemma-3-4b qwen3-30b-a3b --layers 16

A kernel's is the time of many launches of RMSNorm over one row, which no device is slower at than its host. A prefill
is timed with either launcher and as a CUDA graph, which is what the device alone needs: what is beyond that is waiting.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from graph_clock import race
from model_steps import Ours, Repeated, full_depth
from provenance import ROOT, device_slug, facts
from triton.runtime.jit import JITFunction

from fastkernels_gym.catalog import load_model_config
from fastkernels_gym.engine.step import forward_step
from fastkernels_gym.tasks.baseline.L1.rms_norm import rms_norm
from fastkernels_gym.tasks.baseline.launch import Kernel

_LAUNCHES = 400  # between two looks at the clock: the driver's queue holds more
_RACE_S = 3.0


class With:
    """Something timed with Triton's own launcher, or with ours."""

    def __init__(self, timed: Any, *, tritons: bool) -> None:
        self.length, self._timed, self._tritons = timed.length, timed, tritons

    def seconds(self) -> float:
        if not self._tritons:
            return float(self._timed.seconds())
        with _tritons_launcher():
            return float(self._timed.seconds())


class Launches:
    """Seconds of the host a launch."""

    length = _LAUNCHES

    def __init__(self, launch: Callable[[], object]) -> None:
        self._launch = launch

    def seconds(self) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(self.length):
            self._launch()
        return (time.perf_counter() - begin) / self.length


@contextmanager
def _tritons_launcher() -> Iterator[None]:
    ours = Kernel.run
    Kernel.run = JITFunction.run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Kernel.run = ours  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["gemma-3-4b"])
    parser.add_argument("--layers", type=int, help="depth; default: full, or what memory holds")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prefill")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-launch-cost.json")
    options = parser.parse_args()
    device = torch.device("cuda")
    out = options.out or ROOT / f"benchmarks/results/{device_slug(device)}-launch-cost.json"
    found = {"kernel_us": kernel(device), "prefills": {}}
    print(f"a launch of RMSNorm, us: {found['kernel_us']}", flush=True)
    for name in options.models:
        found["prefills"][name] = prefill(name, options.layers, options.prompt, device)
        print(f"{name}: {found['prefills'][name]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    out.write_text(json.dumps({**facts(device), **found}, indent=1) + "\n")


@torch.no_grad()
def kernel(device: torch.device) -> dict[str, float]:
    """Microseconds of a launch, allocation of the output and what else Python does around it included, and without."""
    x, weight = torch.randn(1, 512, device=device), torch.ones(512, device=device)
    norm, nothing = Launches(lambda: rms_norm(x, weight, 1e-6)), Launches(lambda: torch.empty_like(x))
    runners = {"ours": With(norm, tritons=False), "triton's": With(norm, tritons=True), "no launch": nothing}
    return {name: round(seconds * 1e6, 2) for name, seconds in race(runners, _RACE_S).items()}


@torch.no_grad()
def prefill(name: str, layers: int | None, prompt: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of a prefill by either launcher, and of the device alone; layers."""
    model = load_model_config(name)
    depth = layers or full_depth(model, device)
    ours = Ours(model, device, depth)
    step, _ = ours.prefill(1, prompt)
    batch, caches = ours.batch(1, prompt, 0)
    graph = Repeated(lambda: forward_step(ours.module, batch, caches), device, graph=True)
    runners = {"ours": With(step, tritons=False), "triton's": With(step, tritons=True), "device alone": graph}
    times = {way: round(seconds * 1e3, 3) for way, seconds in race(runners, _RACE_S).items()}
    return {"layers": depth, **times}


if __name__ == "__main__":
    main()
