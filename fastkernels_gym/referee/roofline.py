"""The least time that a device needs for a call: the bytes it must move, the products it must compute.

The ceilings are measured on the device, once a session. What a call must move is each input read once and each output
written once; of pages, the tokens that the sequences hold and a window shows; of an embedding's table, the rows that
are looked up; of a mixture's weights, the experts that a token chose. Products are the reference's dense matrix
products; attention's are left out, which makes the bound a generous one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastkernels_gym.referee.program import run_baseline
from fastkernels_gym.referee.scene import Call, Given, Scene, Shared
from fastkernels_gym.tasks.baseline.forward_context import reference_mode
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.grouped_gemm import GroupedGemm

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


@dataclass(frozen=True, slots=True)
class Work:
    """What one call must do: bytes to move, floating-point operations of its matrix products."""

    bytes: int
    flops: int


def least_work(scene: Scene, call: Call) -> Work:
    """What one call of a submodule must do."""
    flops, unread = _products(scene, call)
    moved = own_bytes(scene, call) + _page_bytes(scene, call)
    if flops:
        moved += _weight_bytes(scene, call) - unread
    # Else no weight but a table that is multiplied with nothing: the rows that are read are as large as the outputs.
    return Work(moved, flops)


def least_seconds(scene: Scene, call: Call, ceilings: Ceilings) -> float:
    """The bound for one call of a submodule."""
    work = least_work(scene, call)
    return max(work.bytes / ceilings.bytes_per_s, work.flops / ceilings.flops_per_s)


def own_bytes(scene: Scene, call: Call) -> int:
    """Bytes of a call's own inputs and outputs: neither weights nor pages."""
    given = [a.tensor for a in call.arguments if isinstance(a, Given)]
    outputs = [t for t in run_baseline(scene, call) if t is not None]
    return sum(t.numel() * t.dtype.itemsize for t in (*given, *outputs))


def _weight_bytes(scene: Scene, call: Call) -> int:
    handed = {a.ref for a in call.arguments if isinstance(a, Shared)} - scene.pages
    parameters = scene.subject.module.get_submodule(call.path).parameters()
    own = sum(p.numel() * p.dtype.itemsize for p in parameters)
    return own + sum(scene.subject.weights.tensor(ref).nbytes for ref in handed)


def _page_bytes(scene: Scene, call: Call) -> int:
    """Keys and values that one call touches: all of its sequences' when it decodes, the new ones when it stores."""
    keys = scene.kv_caches[0][0]
    token = 2 * keys[0, 0].numel() * keys.dtype.itemsize
    writes = scene.subject.writes_kv(call.path)
    handed = any(isinstance(a, Shared) and a.ref in scene.pages for a in call.arguments)
    stores_alone = writes and handed
    if scene.graph and (writes or handed) and not stores_alone:
        modules = scene.subject.module.get_submodule(call.path).modules()
        windows = [m.sliding_window for m in modules if isinstance(m, FlashAttnDecode) and m.sliding_window]
        seen = scene.batch.metadata.seq_lens
        return token * int((seen.clamp(max=min(windows)) if windows else seen).sum())
    return token * scene.batch.metadata.slot_mapping.numel() if writes else 0


def _products(scene: Scene, call: Call) -> tuple[int, int]:
    """Operations of the reference's dense matrix products, and bytes of the experts that no token chose."""
    counter = FlopCounterMode(display=False)
    with unread_experts(scene.subject.module.get_submodule(call.path)) as unread, counter, reference_mode():
        run_baseline(scene, call)
    counts = counter.get_flop_counts().get("Global", {})
    return sum(n for operation, n in counts.items() if str(operation) in _DENSE), sum(unread)


@contextmanager
def unread_experts(module: nn.Module) -> Iterator[list[int]]:
    """Yields, for each grouped product that runs within, the bytes of the experts that no token chose."""
    unread: list[int] = []

    def choose(_: Any, args: tuple[Any, ...]) -> None:
        _, weight, _, _, experts, used, _, block_size = args
        chosen = experts[: int(used) // block_size].unique().numel()
        unread.append((weight.shape[0] - chosen) * weight[0].nbytes)

    hooks = [m.register_forward_pre_hook(choose) for m in module.modules() if isinstance(m, GroupedGemm)]
    try:
        yield unread
    finally:
        for hook in hooks:
            hook.remove()


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
