"""What a device does at best, measured once and kept on disk beside its self-test.

Each ceiling is the best of many tries over a while, so that clocks have risen and some try was not disturbed.
Matrices are zeros, which draw the least power: real data runs slower.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fastkernels_gym.catalog.work import Work
from fastkernels_gym.player.memory import dtype_name
from fastkernels_gym.referee.calibration import device_folder, write_whole
from fastkernels_gym.referee.device_state import Identity

_VERSION = 1  # of how they are measured
_SECONDS = 0.25  # a ceiling
# A try, so that starting it does not count; on a CPU shorter than what its other users leave undisturbed.
_TRY_S = {"cpu": 5e-4, "cuda": 2e-3}
_COPIED = {"cpu": 1 << 23, "cuda": 1 << 30}
_TIMES = 32  # in one graph: what lies in a GPU's cache is read and written in microseconds
_SIDES = {"cpu": (256, 512), "cuda": (4096, 8192)}
# What a measured ceiling may be short of the true one by.
_MARGIN = {"cpu": 0.5, "cuda": 0.85}
_MUCH = 1 << 60


@dataclass(frozen=True, slots=True)
class Ceilings:
    """A device's, for one dtype.

    Args:
        bytes_per_s: of its memory, read and written or read alone, whichever is more.
        flops_per_s: of matrix products of the dtype; for float32 those of the tensor cores.
        cache_bytes_per_s: of the cache that is nearest to what computes.
        cache_bytes: that the last cache holds.
        parts: how often all but the cache's size is there: the cores of a CPU, measured one by one; a GPU is one.
        margin: a call that takes less than this share of the least time is impossible.
    """

    bytes_per_s: float
    flops_per_s: float
    cache_bytes_per_s: float = 0.0
    cache_bytes: int = 0
    parts: int = 1
    margin: float = 1.0

    def least_seconds(self, work: Work) -> float:
        """What a player needs for a call whose data lies in memory."""
        return max(work.bytes / self.bytes_per_s, work.flops / self.flops_per_s)

    def impossible_below(self, work: Work) -> float:
        """Seconds that nothing falls short of: all data in the cache if it fits there, all cores at work."""
        fits = work.bytes <= self.cache_bytes
        moving = work.bytes / max(self.bytes_per_s, self.cache_bytes_per_s if fits else 0.0)
        return self.margin / self.parts * max(moving, work.flops / self.flops_per_s)

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, identity: Identity) -> Ceilings:
        """The device's own: from disk, or measured now."""
        path = device_folder() / f"ceilings-{_VERSION}-{identity.key}.json"
        known = _read(path)
        ceilings: dict[str, Callable[[], float]] = {
            "memory": partial(_memory_bytes_per_s, device),
            "cache": partial(_cache_bytes_per_s, device),
            dtype_name(dtype): partial(_flops_per_s, device, dtype),
        }
        for name, measure in ceilings.items():
            if name not in known:
                known[name] = measure()
                write_whole(path, json.dumps(known, indent=1) + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return cls(
            known["memory"],
            known[dtype_name(dtype)],
            known["cache"],
            _cache_bytes(device),
            len(os.sched_getaffinity(0)) if device.type == "cpu" else 1,
            _MARGIN[device.type],
        )


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): value for name, value in found.items() if isinstance(value, float) and value > 0}
    except (OSError, ValueError, AttributeError):
        return {}


def _memory_bytes_per_s(device: torch.device) -> float:
    size = _COPIED[device.type]
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / _best(device, lambda: target.copy_(source))
    return max(copied, size / _best(device, lambda: source.sum()))


def _cache_bytes_per_s(device: torch.device) -> float:
    """What is read and written within the L2 cache of a GPU, or of a CPU's core."""
    if device.type == "cpu":
        source = torch.ones(1 << 17, dtype=torch.float32)
        target = torch.empty_like(source)
        return 2 * source.nbytes / _best(device, lambda: target.copy_(source))
    source = torch.zeros(_cache_bytes(device) // 16, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.neg(source, out=target)
        graph.capture_begin()
        for _ in range(_TIMES):
            torch.neg(source, out=target)
        graph.capture_end()
    side.synchronize()
    return 2 * source.nbytes * _TIMES / _best(device, graph.replay)


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    best = 0.0
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        for side in _SIDES[device.type]:
            a = torch.zeros(side, side, device=device, dtype=dtype)
            b, out = torch.zeros_like(a), torch.empty_like(a)

            def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> object:
                return torch.mm(a, b, out=out)

            best = max(best, 2 * side**3 / _best(device, multiply))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return best


def _cache_bytes(device: torch.device) -> int:
    """Of a GPU's L2, or of all caches that a CPU's first core sees; where the kernel does not say, much."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        found += int(text.rstrip("KM") or 0) * unit
    return found or _MUCH


def _best(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of the fastest try."""
    repeats, best = 1, float("inf")
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        _synchronize(device)
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        _synchronize(device)
        took = time.perf_counter() - begin
        if took < _TRY_S[device.type] and repeats < 1 << 12:
            repeats *= 2
            continue
        best = min(best, took / repeats)
    return min(best, took / repeats)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
