"""What a device is, and what the driver says of its state: clocks, temperature, power, whether it is slowed down.

NVML is asked directly, without a package of its own; where its library is missing, as on every CPU, there is no state.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache

import torch

from fastkernels_gym.device import cpu_name, slug

_LIBRARY = "libnvidia-ml.so.1"
_SM_CLOCK, _MEMORY_CLOCK, _GPU_SENSOR = 1, 2, 0
# The software power cap (0x4) is the normal state of a loaded GPU, and no reason to discard anything.
_SLOWED = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What figures of a device hold for: this very device under this driver and this torch."""

    name: str
    uuid: str
    driver: str
    torch: str

    @property
    def key(self) -> str:
        """A file's name for it."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        return f"{slug(self.name)}-{digest}"


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A GPU at one moment; None for what the driver does not say."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    slowed: tuple[str, ...] = ()


class Gpu:
    """One GPU, as NVML has it.

    Args:
        nvml: the library, initialised.
        handle: the device's.
    """

    def __init__(self, nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._nvml, self._handle = nvml, handle
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        self._reasons = next((getattr(nvml, name) for name in names if hasattr(nvml, name)), None)

    def minor(self) -> int | None:
        """The number of its file, /dev/nvidia<number>."""
        return self._number("nvmlDeviceGetMinorNumber")

    def slowed(self) -> tuple[str, ...]:
        """Why the device runs below the clocks that its load would allow; nothing where it does not."""
        found = ctypes.c_ulonglong()
        if self._reasons is None or self._reasons(self._handle, ctypes.byref(found)) != 0:
            return ()
        return tuple(reason for bit, reason in _SLOWED.items() if found.value & bit)

    def state(self) -> DeviceState:
        power = self._number("nvmlDeviceGetPowerUsage")
        return DeviceState(
            self._number("nvmlDeviceGetClockInfo", _SM_CLOCK),
            self._number("nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
            self._number("nvmlDeviceGetTemperature", _GPU_SENSOR),
            None if power is None else power / 1000.0,
            self.slowed(),
        )

    def _number(self, name: str, *which: int) -> int | None:
        found = ctypes.c_uint()
        function = getattr(self._nvml, name, None)
        if function is None or function(self._handle, *which, ctypes.byref(found)) != 0:
            return None
        return found.value


@cache
def identity(device: torch.device) -> Identity:
    """The device's identity; a CPU is known by its name and the cores that this process may use."""
    if device.type == "cpu":
        return Identity(cpu_name(), "", "", torch.__version__)
    properties = torch.cuda.get_device_properties(device)
    return Identity(properties.name, _uuid(device), driver_version(), torch.__version__)


def gpu(device: torch.device) -> Gpu | None:
    """A device's handle; None on a CPU, or where NVML or the device cannot be found."""
    return _gpu(_uuid(device)) if device.type == "cuda" else None


def place(device: torch.device) -> str:
    """`cpu`, or `cuda:<number>` by the number of the GPU's file: CUDA numbers only the devices that it is shown."""
    if device.type == "cpu":
        return "cpu"
    found = gpu(device)
    minor = None if found is None else found.minor()
    return f"cuda:{device.index or 0 if minor is None else minor}"


def driver_version() -> str:
    """Of the NVIDIA driver; empty where NVML cannot say."""
    nvml = _library()
    text = ctypes.create_string_buffer(96)
    if nvml is None or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return ""
    return text.value.decode(errors="replace")


def nvml_fault() -> str:
    """Why there is no NVML here; empty where there is."""
    return "" if _library() is not None else f"{_LIBRARY} does not load: throttling goes unseen"


@cache
def _library() -> ctypes.CDLL | None:
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return nvml if nvml.nvmlInit_v2() == 0 else None


@cache
def _gpu(uuid: str) -> Gpu | None:
    nvml, handle = _library(), ctypes.c_void_p()
    if nvml is None or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        return None
    return Gpu(nvml, handle)


def _uuid(device: torch.device) -> str:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
