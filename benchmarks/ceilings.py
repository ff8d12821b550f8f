"""What the device does at best, measured in the run that is compared with it: copies, reads, matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from graph_clock import MOST_CALLS, race, runner, wait

_LARGE = {"cuda": 1 << 31, "cpu": 1 << 22}  # bytes that no cache holds
_SIDE = {"cuda": 8192, "cpu": 128}
_SUSTAINED_S = {"cuda": 2.0, "cpu": 0.01}


@triton.jit
def _copy_kernel(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < size), mask=at < size)


@triton.jit
def _read_kernel(x_ptr, out_ptr, blocks, BLOCK: tl.constexpr):
    acc = tl.zeros([BLOCK], tl.int32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        acc += tl.load(x_ptr + block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK))
    tl.store(out_ptr + tl.program_id(0), tl.sum(acc, axis=0))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of one device in one run.

    Args:
        device: which.
        read: bytes a second of a kernel that only reads.
        copy: bytes a second, read and written, of a large copy.
        matrix: operations a second of a large matrix product after seconds of nothing else.
        matrix_cool: the same at once.
    """

    device: torch.device
    read: float
    copy: float
    matrix: float
    matrix_cool: float
    _copies: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        large = _LARGE[device.type]
        cool, sustained = _matrix_rates(device, dtype)
        return cls(device, _read_rate(device, large), large / _copy_seconds(device, large), sustained, cool)

    def copy_rate(self, nbytes: int) -> float:
        """Bytes a second of a copy that moves `nbytes`, half of them read and half written."""
        size = max(512, nbytes // 2 // 256 * 256)
        if size not in self._copies:
            self._copies[size] = 2 * size / _copy_seconds(self.device, 2 * size)
        return self._copies[size]

    def to_json(self) -> dict[str, object]:
        return {
            "read_bytes_per_s": self.read,
            "copy_bytes_per_s": self.copy,
            "matrix_flops_per_s": self.matrix,
            "matrix_cool_flops_per_s": self.matrix_cool,
            "copies": {2 * size: rate for size, rate in sorted(self._copies.items())},
        }


def cache_bytes(device: torch.device) -> int:
    """Of the last cache before the memory."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 1 << 12


def _copy_seconds(device: torch.device, nbytes: int) -> float:
    """The faster of the driver's copy and a kernel's, over rotating buffers."""
    half = nbytes // 2
    sets = max(2, min(MOST_CALLS, -(-2 * cache_bytes(device) // nbytes)))
    pairs = [torch.ones(2, half // 4, dtype=torch.int32, device=device) for _ in range(sets)]
    ways: dict[str, Callable[[torch.Tensor], object]] = {"driver": lambda pair: pair[1].copy_(pair[0])}
    if device.type == "cuda":
        ways |= {f"kernel {block}": _copying(block) for block in (1024, 4096)}
    least = nbytes / 5e12
    runners = {name: runner([_bound(way, pair) for pair in pairs], device, least)[0] for name, way in ways.items()}
    return min(race(runners).values())


def _copying(block: int) -> Callable[[torch.Tensor], object]:
    def copy(pair: torch.Tensor) -> None:
        size = pair.shape[1]
        _copy_kernel[(triton.cdiv(size, block),)](pair[0], pair[1], size, block, num_warps=block // 256)

    return copy


def _bound(work: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> Callable[[], object]:
    return lambda: work(tensor)


def _read_rate(device: torch.device, nbytes: int) -> float:
    x = torch.ones(nbytes // 4, dtype=torch.int32, device=device)
    if device.type != "cuda":
        return nbytes / race({"sum": runner([x.sum], device, 0)[0]})["sum"]
    programs = torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.empty(nbytes // 4, dtype=torch.int32, device=device)
    runners = {}
    for block, warps, waves in ((2048, 4, 8), (4096, 8, 4), (8192, 8, 4), (8192, 8, None), (16384, 16, None)):
        blocks = x.numel() // block
        grid = (blocks if waves is None else programs * waves,)

        def read(grid: tuple[int] = grid, blocks: int = blocks, block: int = block, warps: int = warps) -> None:
            _read_kernel[grid](x, out, blocks, block, num_warps=warps)

        runners[f"{block} {warps} {waves}"] = runner([read], device, nbytes / 5e12)[0]
    return nbytes / min(race(runners).values())


def _matrix_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second at once, and after seconds of them: heat and power take the clock down."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    products, _ = runner([lambda: torch.mm(a, b, out=out)], device, 0.05e-3)
    wait(device)
    rates, begin = [], time.perf_counter()
    while not rates or time.perf_counter() - begin < _SUSTAINED_S[device.type]:
        rates.append(2 * side**3 / products.seconds())
    return max(rates[:3]), statistics.median(rates[-max(1, len(rates) // 3) :])
