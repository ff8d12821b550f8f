"""What is known of the device that candidates run on, found without touching it: no CUDA starts in this process.

Its name comes from the driver's own tool. Its ceilings are what the evaluator measured on a device of that name and
left on the disk; else those of known GPUs: figures of earlier runs, or the maker's data sheet. Of any other device they
are not known.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_PATIENCE_S = 10.0
_MEASURED, _EARLIER, _PUBLISHED = "measured here", "measured in earlier runs", "by its data sheet"
_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device; None, or no entry, stands for what is not known.

    Args:
        kind: `cpu` or `cuda`.
        name: as its driver has it.
        memory_bytes: of the device's own memory.
        bytes_per_s: of its memory, for a large copy, read and written.
        flops_per_s: of a large matrix product, by dtype.
        ceilings: how the last two are known.
    """

    kind: Literal["cpu", "cuda"]
    name: str | None = None
    memory_bytes: int | None = None
    bytes_per_s: float | None = None
    flops_per_s: tuple[tuple[str, float], ...] = ()
    ceilings: str | None = None

    def flops_of(self, dtype: object) -> float | None:
        """Operations a second of matrix products of a dtype, named or torch's."""
        return dict(self.flops_per_s).get(str(dtype).removeprefix("torch."))


# By the beginning of a name: bytes a second, 16-bit operations a second.
_KNOWN = (
    ("NVIDIA H200", 4.27e12, 785e12, _EARLIER),
    ("NVIDIA H100 80GB HBM3", 3.35e12, 989e12, _PUBLISHED),
    ("NVIDIA A100-SXM4-80GB", 2.04e12, 312e12, _PUBLISHED),
)


def device_facts(kind: Literal["cpu", "cuda"]) -> DeviceFacts:
    """The facts of this machine's device."""
    name, memory = (cpu_name(), None) if kind == "cpu" else _first_gpu()
    if name is None:
        return DeviceFacts(kind)
    if measured := _left_on_disk(name):
        products = tuple((dtype, measured[dtype]) for dtype in _DTYPES if dtype in measured)
        return DeviceFacts(kind, name, memory, measured["memory"], products, _MEASURED)
    for beginning, moved, products16, how in _KNOWN:
        if name.startswith(beginning):
            return DeviceFacts(kind, name, memory, moved, (("bfloat16", products16), ("float16", products16)), how)
    return DeviceFacts(kind, name, memory)


def _left_on_disk(name: str) -> dict[str, float]:
    """The latest ceilings that the evaluator kept of a device of that name; of no use without the memory's."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        paths = (home / "fastkernels-gym" / "devices").glob(f"ceilings-*-{slug(name)}-{'[0-9a-f]' * 12}.json")
        found = json.loads(max(paths, key=lambda path: path.stat().st_mtime).read_bytes())
        kept = {str(key): value for key, value in found.items() if isinstance(value, float) and value > 0}
        return kept if "memory" in kept else {}
    return {}


def shown_gpu() -> str:
    """The first GPU that this process is shown, as nvidia-smi's `--id` takes it: a number or a UUID."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"


@cache
def _first_gpu() -> tuple[str | None, int | None]:
    """Name and memory of the GPU that candidates are timed on, as far as the driver's tool tells."""
    try:
        command = (*_QUERY, f"--id={shown_gpu()}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        name, mebibytes = done.stdout.strip().rsplit(",", 1)
        return name.strip(), int(mebibytes) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None


def cpu_name() -> str:
    """The processor's name where the kernel tells it, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    found = None
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{found[1].strip() if found else 'CPU'} ({cores} cores)"


def slug(name: str) -> str:
    """A device's name as file names have it, such as `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
