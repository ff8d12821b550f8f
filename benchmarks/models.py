"""Whole models against transformers, over the same random weights: prefill, and decode steps of several batches.

python benchmarks/models.py --models llama-3.1-8b
python benchmarks/models.py --models llama-3.1-8b --transformers-layers 4 8    # compiles in a minute, extrapolates
python benchmarks/models.py --models mixtral-8x7b --layers 12 --ours-only

Ours decodes in a CUDA graph, and prefills in one where that is faster, as the engine does. transformers runs eagerly
with a static cache, and compiled: decode steps in a CUDA graph of their own, the prefill causal without a mask and
without a cache to fill.
The roofline is the weights and keys and values that a step must read over the device's read bandwidth, or its
operations over the sustained rate of matrix products, whichever takes longer; both are measured in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings
from graph_clock import Runner, race
from model_steps import Ours, Repeated, Work, full_depth
from provenance import ROOT, clocks, device_slug, facts
from transformers_peer import Peer
from zoo import MODELS

from fastkernels_gym.catalog import Model, load_model_config

# Relative RMS between logits beyond which two models are not the same one: unrelated ones differ by 1.4. Near ties of a
# router that fall the other way make tenths, layer upon layer: the first ones are compared, of every kind of layer.
_OTHER_MODEL, _COMPARED_LAYERS = 0.5, 8
_RACE_S = {"cuda": 3.0, "cpu": 0.1}  # of one phase
_FLOORS = {("llama-3.1-8b", 1): 1.3, ("llama-3.1-8b", 32): 1.35, ("mixtral-8x7b", 32): 1.5, ("qwen3-30b-a3b", 32): 1.5}
_PREFILL_SHARES = {"llama-3.1-8b": 0.9}  # of the roofline


@dataclass(frozen=True, slots=True)
class Cell:
    """One phase of one model.

    Args:
        model: its name.
        phase: `prefill` or `decode`.
        batch: sequences.
        length: prompt tokens, or tokens before the step.
        seconds: of ours.
        work: bytes and operations that it needs.
        floor_s: what they take at the measured ceilings.
        peers: seconds of transformers, by way.
        faults: why a way has no time.
        warm_s: seconds of the first call, by way: compiling, mostly.
    """

    model: str
    phase: str
    batch: int
    length: int
    seconds: float
    work: Work
    floor_s: float
    peers: dict[str, float]
    faults: dict[str, str]
    warm_s: dict[str, float]

    @property
    def share(self) -> float:
        return self.floor_s / self.seconds

    @property
    def best(self) -> float | None:
        """Of transformers."""
        return min(self.peers.values(), default=None)

    @property
    def tokens_per_s(self) -> float:
        return self.batch * (self.length if self.phase == "prefill" else 1) / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "share": round(self.share, 4),
            "tokens_per_s": round(self.tokens_per_s, 1),
            "speedup": self.best and round(self.best / self.seconds, 4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["llama-3.1-8b"], help=f"such as {', '.join(MODELS)}, or all")
    parser.add_argument("--layers", type=int, help="depth of both; default: full, or what memory holds")
    parser.add_argument("--transformers-layers", type=int, nargs=2, metavar="N", help="two depths to extrapolate from")
    parser.add_argument("--ours-only", action="store_true", help="leave transformers out, but for a look at its logits")
    parser.add_argument("--no-compile", action="store_true", help="transformers eagerly alone")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="of decode steps")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prefill; 0 leaves it out")
    parser.add_argument("--context", type=int, default=1024, help="tokens before a decode step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-models.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    out = options.out or ROOT / f"benchmarks/results/{device_slug(device)}-models.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    gc.freeze()
    before = clocks(device)
    ceilings = Ceilings.measure(device, torch.bfloat16)
    say(f"read {ceilings.read / 1e12:.2f} TB/s, matrix {ceilings.matrix / 1e12:.0f} TFLOP/s")
    cells: list[Cell] = []
    notes: dict[str, dict[str, Any]] = {}

    def save() -> None:
        data = {
            **facts(device),
            "clocks": {"before": before, "after": clocks(device)},
            "ceilings": ceilings.to_json(),
            "models": notes,
            "cells": [cell.to_json() for cell in cells],
        }
        out.write_text(json.dumps(data, indent=1) + "\n")

    for name in MODELS if options.models == ["all"] else options.models:
        for cell in measure(load_model_config(name), options, ceilings, notes):
            cells.append(cell)
            save()  # each of them took minutes
        release(device)
    save()
    report(cells, notes)


@torch.no_grad()
def measure(
    model: Model, options: argparse.Namespace, ceilings: Ceilings, notes: dict[str, dict[str, Any]]
) -> Iterator[Cell]:
    """A model's cells; notes its depths and how far its logits are from transformers'."""
    layers = options.layers or full_depth(model, ceilings.device)
    say(f"{model.name}: {layers} of {model.config.num_hidden_layers} layers")
    ours = Ours(model, ceilings.device, layers)
    depths = [min(depth, layers) for depth in options.transformers_layers or [layers]]
    peers = [Peer(model.config, ours.module, depth) for depth in depths]
    compared = min(_COMPARED_LAYERS, layers)
    off = ours.distance(Peer(model.config, ours.module, compared).logits, compared)
    say(f"{model.name}: after {compared} layers logits differ from transformers' by {off:.2%}")
    full = model.config.num_hidden_layers
    notes[model.name] = {"layers": [layers, full], "transformers_layers": depths, "logits_off": off}
    if not off <= _OTHER_MODEL:
        say(f"{model.name}: that is not the same model: nothing is timed")
        return
    phases = [("prefill", 1, options.prompt)] if options.prompt else []
    for phase, batch, length in phases + [("decode", batch, options.context) for batch in options.batches]:
        runner, work = ours.prefill(batch, length) if phase == "prefill" else ours.decode(batch, length)
        floor_s = max(work.bytes / ceilings.read, work.flops / ceilings.matrix)
        times: dict[str, float] = {}
        faults: dict[str, str] = {}
        warm: dict[str, float] = {}
        if options.ours_only:
            times = race({"ours": runner}, _RACE_S[ceilings.device.type])
        else:
            ways = ("eager",) if options.no_compile else ("eager", "compiled")
            times = against(runner, peers, layers, (phase, batch, length), ways, faults, warm)
        seconds = times.pop("ours")
        cell = Cell(model.name, phase, batch, length, seconds, work, floor_s, times, faults, warm)
        say(line(cell))
        yield cell
        del runner, times
        release(ceilings.device)


def against(
    ours: Runner, peers: list[Peer], layers: int, phase: tuple[str, int, int], ways: tuple[str, ...],
    faults: dict[str, str], warm: dict[str, float],
) -> dict[str, float]:  # fmt: skip
    """Times ours and transformers in turns; at two depths of its own, transformers' time is a line through both."""
    torch._dynamo.reset()  # of phases before
    runners: dict[str, Runner] = {"ours": ours}
    for way in ways:
        for peer in peers:
            begin = time.monotonic()
            try:
                runners[f"{way} {peer.num_layers}"] = _peer_runner(peer, phase, compiled=way == "compiled")
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                faults[way] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                say(f"transformers {way}: {faults[way]}")
            warm[f"{way} {peer.num_layers}"] = round(time.monotonic() - begin, 1)
    times = race(runners, _RACE_S[peers[0].device.type])
    found = {"ours": times["ours"]}
    for way in ways:
        if way in faults:
            continue
        points = [(peer.num_layers, times[f"{way} {peer.num_layers}"]) for peer in peers]
        (low, first), (high, last) = points[0], points[-1]
        found[way] = last if high == layers else last + (layers - high) * (last - first) / (high - low)
    return found


def _peer_runner(peer: Peer, phase: tuple[str, int, int], *, compiled: bool) -> Runner:
    name, batch, length = phase
    if name == "prefill":
        ids = torch.randint(peer.config.vocab_size, (batch, length), device=peer.device)
        run, before = peer.prefill(ids, compiled=compiled)
        return Repeated(run, peer.device, before)
    run, before = peer.decode(batch, length, compiled=compiled)
    graph = compiled and peer.device.type == "cuda"  # outside one, steps in a row would compile again as windows fill
    return Repeated(run, peer.device, before, graph=graph, length=4 if graph else 1)


def line(cell: Cell) -> str:
    """A row of the table."""
    ways = "  ".join(f"{way} {seconds * 1e3:.2f}" for way, seconds in cell.peers.items())
    against_best = f"  {cell.best / cell.seconds:.2f}x" if cell.best else ""
    name = f"{cell.model}, {cell.phase} {cell.batch} x {cell.length}"
    return (
        f"{name:<36} {cell.seconds * 1e3:8.3f} {cell.floor_s * 1e3:8.3f} {cell.share:6.3f} "
        f"{cell.tokens_per_s:9.0f}  {ways}{against_best}"
    )


def report(cells: list[Cell], notes: dict[str, dict[str, Any]]) -> None:
    print(f"{'ms':<36} {'ours':>8} {'floor':>8} {'share':>6} {'tokens/s':>9}  transformers, best over ours")
    for cell in cells:
        print(line(cell))
    for name, note in notes.items():
        other = "" if note["logits_off"] <= _OTHER_MODEL else ": NOT THE SAME MODEL"
        print(f"{name}: layers {note['layers']}, transformers {note['transformers_layers']}, "
              f"logits off {note['logits_off']:.2%}{other}")  # fmt: skip
    for cell in cells:
        for way, fault in cell.faults.items():
            print(f"fault | {cell.model} {cell.phase} {cell.batch} {way}: {fault}")
    print("target | asked | measured | met")
    for cell in cells:
        name = f"{cell.model}: {cell.phase} {cell.batch} x {cell.length}"
        if cell.best is not None:
            ratio = cell.best / cell.seconds
            print(f"{name}, transformers' best over ours | > 1 | {ratio:.3f} | {'yes' if ratio > 1 else 'NO'}")
        limit = _FLOORS.get((cell.model, cell.batch)) if cell.phase == "decode" else None
        if limit is not None:
            over = cell.seconds / cell.floor_s
            print(f"{name}, time over floor | <= {limit} | {over:.3f} | {'yes' if over <= limit else 'NO'}")
        least = _PREFILL_SHARES.get(cell.model) if cell.phase == "prefill" else None
        if least is not None:
            print(f"{name}, of the roofline | >= {least} | {cell.share:.3f} | {'yes' if cell.share >= least else 'NO'}")


def release(device: torch.device) -> None:
    """Gives graphs' and caches' memory back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
