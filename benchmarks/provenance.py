"""What a result file must say of the run that it is of; where there is no repository, COMMIT names the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fastkernels_gym.referee.device_state import identity

ROOT = Path(__file__).resolve().parents[1]
_QUERY = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


def provenance() -> dict[str, object]:
    """Command, date, commit, versions."""
    return {
        "command": " ".join(["python", *(os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("COMMIT") or _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in ("triton", "transformers", "flash-attn")},
    }


def facts(device: torch.device) -> dict[str, object]:
    """Provenance and the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({os.cpu_count()} cores)"
    return {**provenance(), "device": name, "cuda": torch.version.cuda}


def clocks(device: torch.device) -> dict[str, object]:
    """Driver, clocks in MHz, power in W, temperature, as nvidia-smi says now; peak memory of this process."""
    if device.type != "cuda":
        return {}
    said = _output("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "-i", identity(device).uuid)
    found = dict(zip(_QUERY.split(","), said.split(", "), strict=False)) if said else {}
    return {**found, "peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2)}


def device_slug(device: torch.device) -> str:
    """The device's name in file names: `h200`, `cpu`."""
    if device.type != "cuda":
        return "cpu"
    name = torch.cuda.get_device_name(device)
    found = re.search(r"[A-Z]+\d+\w*", name)
    return (found[0] if found else name.replace(" ", "-")).lower()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
