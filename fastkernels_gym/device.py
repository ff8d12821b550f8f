"""What is known of the device that candidates run on, found without touching it: no CUDA starts in this process.

Names come from the driver's own tool. Ceilings are those of known GPUs: measured by the evaluator where a figure of a
run is at hand, else the maker's data sheet; of any other device they are not known.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_PATIENCE_S = 10.0
_MEASURED = "measured by the evaluator"
_PUBLISHED = "by its data sheet"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device; None stands for what is not known.

    Args:
        kind: `cpu` or `cuda`.
        name: as its driver has it.
        memory_bytes: of the device's own memory.
        bytes_per_s: of a large copy, read and written.
        flops_per_s: of a large matrix product of 16-bit floating-point numbers.
        ceilings: how the last two are known.
    """

    kind: Literal["cpu", "cuda"]
    name: str | None = None
    memory_bytes: int | None = None
    bytes_per_s: float | None = None
    flops_per_s: float | None = None
    ceilings: str | None = None


# By the beginning of a name, the longer before the shorter.
_KNOWN: tuple[tuple[str, float, float, str], ...] = (
    ("NVIDIA H200", 4.27e12, 785e12, _MEASURED),
    ("NVIDIA H100 80GB HBM3", 3.35e12, 989e12, _PUBLISHED),
    ("NVIDIA A100-SXM4-80GB", 2.04e12, 312e12, _PUBLISHED),
)


@cache
def device_facts(kind: Literal["cpu", "cuda"]) -> DeviceFacts:
    """The facts of this machine's device; asked for once a process."""
    if kind == "cpu":
        return DeviceFacts(kind, _processor())
    name, memory = _first_gpu()
    known = next((entry for entry in _KNOWN if name is not None and name.startswith(entry[0])), None)
    return DeviceFacts(kind, name, memory, *(known[1:] if known else ()))


def _first_gpu() -> tuple[str | None, int | None]:
    """Name and memory of the GPU that candidates are timed on, as far as the driver's tool tells."""
    try:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
        command = (*_QUERY, f"--id={shown}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        name, mebibytes = done.stdout.strip().rsplit(",", 1)
        return name.strip(), int(mebibytes) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None


def _processor() -> str | None:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
