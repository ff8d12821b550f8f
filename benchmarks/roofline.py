"""Every operator of a model at its true shapes: microseconds, bytes, operations, share of what the device can do.

python benchmarks/roofline.py --models llama-3.1-8b
python benchmarks/roofline.py --models llama-3.1-8b --operators 'L1/rms*' --only cases
python benchmarks/roofline.py --plot benchmarks/results/h200-roofline.json

The model is built with random weights at a few layers, enough for weights in turns to leave the cache; operators are
recorded in it and run on rotating copies of what they were given, as a CUDA graph. Ceilings (copies of the same size,
reads, sustained matrix products) and rivals (the reference eager and compiled, cuBLAS, other attention) are measured
in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings
from operator_cases import cases_of, label_of, open_scene, prepare, prepare_chains, scene_of, subject_layers
from provenance import ROOT, clocks, device_slug, facts
from roofline_rows import Row, least, measure, timed
from roofline_targets import ALONE, LAYER_LINEARS, targets
from torch.nn import functional
from zoo import MODELS

from fastkernels_gym.catalog import Case, Phase, load_model_config
from fastkernels_gym.errors import FastKernelsError
from fastkernels_gym.referee.scene import Scene
from fastkernels_gym.referee.subject import Subject
from fastkernels_gym.tasks.baseline.forward_context import ForwardContext, set_forward_context

SECTIONS = ("cases", "linears", "prefill-attention", "decode-attention")
RAGGED = (3000, 17, 2048, 1, 700)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["llama-3.1-8b"], help=f"such as {', '.join(MODELS)}, or all")
    parser.add_argument("--operators", default="*", help="a glob of ids, such as 'L1/rms*'")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="of decode steps")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prefill")
    parser.add_argument("--context", type=int, default=1024, help="tokens before a decode step")
    parser.add_argument("--layers", type=int, help="default: as many as make weights leave the cache")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes most of the time"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-roofline.json")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="draw an earlier run's file, and measure nothing")
    options = parser.parse_args()
    if options.plot is not None:
        draw(options.plot)
        return
    device = torch.device(options.device)
    out = options.out or ROOT / f"benchmarks/results/{device_slug(device)}-roofline.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    depths: dict[str, list[int]] = {}
    faults: list[str] = []
    gc.freeze()  # what is imported stays: nothing that collections should walk
    before = clocks(device)
    ceilings = Ceilings.measure(device, torch.bfloat16)
    say(f"read {ceilings.read / 1e12:.2f} TB/s, copy {ceilings.copy / 1e12:.2f} TB/s, "
        f"matrix {ceilings.matrix / 1e12:.0f} TFLOP/s ({ceilings.matrix_cool / 1e12:.0f} cool)")  # fmt: skip
    try:
        for name in MODELS if options.models == ["all"] else options.models:
            for row in rows_of(name, options, ceilings, depths, faults):
                rows.append(row)
    finally:
        found = targets(rows)
        data = {
            **facts(device),
            "clocks": {"before": before, "after": clocks(device)},
            "ceilings": ceilings.to_json(),
            "layers": depths,
            "faults": faults,
            "targets": [target.to_json() for target in found],
            "rows": [row.to_json() for row in rows],
        }
        out.write_text(json.dumps(data, indent=1) + "\n")
    print(table(rows))
    print("\n".join(f"fault | {fault}" for fault in faults))
    print("target | asked | measured | met")
    for target in found:
        print(f"{target.model}: {target.what} | {target.asked} | {target.measured} | {'yes' if target.met else 'NO'}")
    draw(out)


def rows_of(
    name: str, options: argparse.Namespace, ceilings: Ceilings, depths: dict[str, list[int]], faults: list[str]
) -> Iterator[Row]:
    """All rows of a model; what fails is noted and passed over."""
    device, model = ceilings.device, load_model_config(name)
    layers = options.layers or subject_layers(model, device)
    depths[name] = [layers, model.config.num_hidden_layers]
    subject = Subject(model, device, layers, torch.Generator(device).manual_seed(0))
    say(f"{name}: {layers} of {model.config.num_hidden_layers} layers")
    phases = [Phase("prefill", 1, options.prompt, 0, 1)]
    phases += [Phase("decode", batch, 1, options.context, 1) for batch in options.batches]
    for phase in phases:
        if {"cases", "linears"} & set(options.only):
            yield from phase_rows(subject, phase, options, ceilings, faults)
            release(device)
    for section, label, queries, contexts in attention_scenes(options):
        if section in options.only and fnmatchcase(f"L1/flash_attn_{section.split('-')[0]}", options.operators):
            with torch.no_grad():
                scene = open_scene(subject, queries, contexts)
            yield from attention_rows(label, scene, ceilings, faults)
            del scene
            release(device)


def phase_rows(
    subject: Subject, phase: Phase, options: argparse.Namespace, ceilings: Ceilings, faults: list[str]
) -> Iterator[Row]:
    """Every case of a pass, then a layer's linears together."""
    with torch.no_grad():
        scene = scene_of(subject, phase)
    cases, where = cases_of(subject.model, phase), (subject.model.name, phase_name(phase), phase.tokens)
    if "cases" in options.only:
        for case in cases:
            if fnmatchcase(case.operator, options.operators):
                label = label_of(case, cases)
                yield from _guarded(faults, partial(case_row, where, case, label, scene, options, ceilings))
    if "linears" in options.only and fnmatchcase("L1/linear", options.operators):
        yield from _guarded(faults, partial(linears_row, where, cases, scene, ceilings))


def attention_scenes(options: argparse.Namespace) -> list[tuple[str, str, list[int], list[int]]]:
    """Section, name, new tokens and context of each sequence; another prompt than 2048 scales them."""
    ragged = [max(1, length * options.prompt // 2048) for length in RAGGED]
    long, context = 4 * options.prompt, 2 * options.prompt
    return [
        ("prefill-attention", f"prefill 1 x {long}", [long], [0]),
        ("prefill-attention", "prefill " + "+".join(map(str, ragged)), ragged, [0] * len(ragged)),
        ("decode-attention", f"decode 32 x {context}", [1] * 32, [context - 1] * 32),
    ]


def case_row(
    where: tuple[str, str, int], case: Case, label: str, scene: Scene, options: argparse.Namespace, ceilings: Ceilings
) -> Row | None:
    """A catalog's case; None if the depth that was built has none of it."""
    with torch.no_grad():
        prepared = prepare(scene, case.paths)
    if prepared is None:
        return None
    args = tuple(arg.to_json() for arg in case.args)
    return measure(where, case.operator, label, prepared, scene, ceilings, compiled=not options.no_compile, args=args)


def linears_row(where: tuple[str, str, int], cases: Sequence[Case], scene: Scene, ceilings: Ceilings) -> Row:
    """All of a layer's linears one after another, layer after layer."""
    paths = [path for case in cases if case.operator == "L1/linear" for path in case.paths if ".layers." in path]
    with torch.no_grad(), set_forward_context(ForwardContext(scene.batch.metadata, scene.kv_caches)):
        ours, work = prepare_chains(scene, paths)
        theirs, _ = prepare_chains(scene, paths, functional.linear)
        bound, ceiling_s = least("L1/linear", work.bytes, work.flops, ceilings)
        times, _, _ = timed({"ours": ours, "cublas": theirs}, ceilings.device, ceiling_s)
    return Row(
        *where, LAYER_LINEARS, "", times["ours"], work.bytes, work.flops, bound, ceiling_s,
        {"cublas": times["cublas"]}, sets=len(ours),
    )  # fmt: skip


def attention_rows(phase: str, scene: Scene, ceilings: Ceilings, faults: list[str]) -> Iterator[Row]:
    """Attention alone at lengths of its own, once for each window that layers have."""
    part = "decode" if scene.graph else "prefill"
    by_window: dict[int | None, list[str]] = {}
    for path, module in scene.subject.module.named_modules():
        if path.endswith(f".self_attn.{part}"):
            by_window.setdefault(module.sliding_window, []).append(path)
    where = (scene.subject.model.name, phase, sum(scene.query_lens))
    for window, paths in by_window.items():
        label = f"{ALONE}, window {window}" if window else ALONE
        yield from _guarded(
            faults, partial(attention_row, where, f"L1/flash_attn_{part}", label, paths, scene, ceilings)
        )


def attention_row(
    where: tuple[str, str, int], operator: str, label: str, paths: Sequence[str], scene: Scene, ceilings: Ceilings
) -> Row | None:
    with torch.no_grad():
        prepared = prepare(scene, paths)
    return prepared and measure(where, operator, label, prepared, scene, ceilings)


def _guarded(faults: list[str], work: Callable[[], Row | None]) -> Iterator[Row]:
    begin = time.monotonic()
    try:
        row = work()
    except (FastKernelsError, RuntimeError, AssertionError, LookupError, TypeError, ValueError) as error:
        faults.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        say(faults[-1])
        return
    if row is not None:
        say(f"{time.monotonic() - begin:5.1f} s  {line(row)}")
        yield row
    release(None)


def release(device: torch.device | None) -> None:
    """Gives graphs' memory back."""
    gc.collect(0 if device is None else 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def phase_name(phase: Phase) -> str:
    if phase.name == "decode":
        return f"decode {phase.batch} x {phase.context_len}"
    return f"prefill {phase.batch} x {phase.query_len}"


HEADER = f"{'operator':<34} {'us':>9} {'TB/s':>5} {'TF/s':>4}  {'of':<6} share  fastest rival, its time over ours"


def line(row: Row) -> str:
    """A row of the table."""
    speed, rate = row.bytes / row.seconds / 1e12, row.flops / row.seconds / 1e12
    rival = row.fastest_rival
    against = f"  {rival[0]} {row.lead:.2f}" if rival else ""
    name = f"{row.operator.replace('parallel_linear.', '').replace('parallel_embedding.', '')} {row.label}"
    return (
        f"{name[:34]:<34} {row.seconds * 1e6:9.2f} {speed:5.2f} {rate:4.0f}  {row.bound:<6} {row.share:5.2f}{against}"
    )


def table(rows: Sequence[Row]) -> str:
    lines = []
    for key in dict.fromkeys((row.model, row.phase) for row in rows):
        lines += [f"-- {key[0]}, {key[1]}", HEADER] if not lines else [f"-- {key[0]}, {key[1]}"]
        lines += [line(row) for row in rows if (row.model, row.phase) == key]
    return "\n".join(lines)


def draw(path: Path) -> None:
    """A picture for each model beside the JSON, where matplotlib is installed."""
    if find_spec("matplotlib") is None:
        say(f"no matplotlib here: elsewhere, python benchmarks/roofline.py --plot {path}")
        return
    from roofline_plot import plot

    data: dict[str, Any] = json.loads(path.read_text())
    for picture in plot(data, path):
        say(f"drew {picture}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
