"""The least time that a device needs for a call: the bytes it must move, the products it must compute.

The ceilings are measured on the device, once a session. What a call must move is each input read once and each output
written once; of pages, the tokens that the sequences hold; of an embedding's table, the rows that are looked up.
Products are the reference's dense matrix products; attention's are left out, which makes the bound a generous one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastkernels_gym.referee.program import Program, run_baseline
from fastkernels_gym.referee.scene import Given, Shared
from fastkernels_gym.tasks.baseline.forward_context import reference_mode

_REPEATS = 5
_DENSE = ("aten.mm", "aten.addmm")


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device does at best: bytes a second, read and written, and floating-point operations a second."""

    bytes_per_s: float
    flops_per_s: float

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        """Times a large copy and a large matrix product of `dtype`, the best of a few."""
        on_gpu = device.type == "cuda"
        source = torch.empty(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=device)
        target, side = torch.empty_like(source), 8192 if on_gpu else 512
        a = torch.randn(side, side, device=device, dtype=dtype)
        copying = _best(device, lambda: target.copy_(source))
        multiplying = _best(device, lambda: a @ a)
        return cls(2 * source.numel() / copying, 2 * side**3 / multiplying)


def least_seconds(program: Program, ceilings: Ceilings) -> float:
    """The bound for one call of a program, from its first call."""
    flops = _dense_flops(program)
    return max(_bytes(program, looks_up=not flops) / ceilings.bytes_per_s, flops / ceilings.flops_per_s)


def _bytes(program: Program, *, looks_up: bool) -> int:
    scene, call = program.scene, program.calls[0]
    module = scene.subject.module.get_submodule(call.path)
    moved = [a.tensor for a in call.arguments if isinstance(a, Given)]
    moved += [t for t in program.layout if t is not None]
    total = sum(t.numel() * t.dtype.itemsize for t in moved) + _page_bytes(program)
    if looks_up:
        # A table that is multiplied with nothing: the rows that are read are as large as the outputs.
        return total
    pages = {ref for pair in scene.kv_refs for ref in pair}
    handed = {a.ref for a in call.arguments if isinstance(a, Shared)} - pages
    total += sum(p.numel() * p.dtype.itemsize for p in module.parameters())
    return total + sum(scene.subject.weights.tensor(ref).nbytes for ref in handed)


def _page_bytes(program: Program) -> int:
    """Keys and values that one call touches: all of its sequences' when it decodes, the new ones when it stores."""
    scene = program.scene
    keys = scene.kv_caches[0][0]
    token = 2 * keys[0, 0].numel() * keys.dtype.itemsize
    reads = scene.graph and (program.writes_kv or bool(program.rows))
    stores_alone = program.writes_kv and not program.needs_context
    if reads and not stores_alone:
        return token * int(scene.batch.metadata.seq_lens.sum())
    return token * scene.batch.metadata.slot_mapping.numel() if program.writes_kv else 0


def _dense_flops(program: Program) -> int:
    counter = FlopCounterMode(display=False)
    with counter, reference_mode():
        run_baseline(program.scene, program.calls[0])
    counts = counter.get_flop_counts().get("Global", {})
    return sum(n for operation, n in counts.items() if str(operation) in _DENSE)


def _best(device: torch.device, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best
