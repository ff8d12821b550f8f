"""The arena's memory: slabs that referee and player both map. memfd on a CPU, raw device allocations over IPC on a GPU.

A device slab is an allocation of its own, never a caching allocator's tensor, since an IPC handle exposes the whole
allocation. A host slab is sealed before it is passed, since truncating it would kill whoever reads.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import warnings
from functools import cache
from typing import Any

import torch

from fastkernels_gym.player.protocol import ProtocolError, TensorRef

ALIGNMENT = 256
# An allocation whose size is no multiple of this is mapped by small pages elsewhere: reading it takes twice as long.
_DEVICE_PAGE = 2 << 20
_DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_F_ADD_SEALS, _F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_FUTURE_WRITE = 1033, 1, 2, 4, 16


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def view(base: torch.Tensor, ref: TensorRef) -> torch.Tensor:
    """The tensor that `ref` names in a slab.

    Args:
        base: the whole slab, uint8.
        ref: where in it; may come from a player.

    Raises:
        ProtocolError: if it does not lie within the slab.
    """
    dtype = _DTYPES.get(ref.dtype)
    if dtype is None:
        raise ProtocolError(f"no dtype {ref.dtype!r}")
    if ref.offset % dtype.itemsize or ref.offset + ref.span * dtype.itemsize > base.numel():
        raise ProtocolError("a tensor outside its slab")
    end = base.numel() - base.numel() % dtype.itemsize
    return base[:end].view(dtype).as_strided(ref.shape, ref.stride, ref.offset // dtype.itemsize)


class HostSlab:
    """Shared host memory of `nbytes`, zero at first."""

    def __init__(self, fd: int, nbytes: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, protection)
        self.fd = fd
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only weights are the point
            self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    @classmethod
    def create(cls, nbytes: int, *, read_only: bool) -> HostSlab:
        """Allocates a slab; of a read-only one no other process can make a writable mapping."""
        fd = memfd(nbytes)
        slab = cls(fd, nbytes, writable=True)
        seal(fd, read_only=read_only)
        return slab

    def close(self) -> None:
        os.close(self.fd)


def memfd(nbytes: int) -> int:
    """A descriptor of anonymous memory, zero at first, that can be sealed."""
    fd = os.memfd_create("arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    return fd


def seal(fd: int, *, read_only: bool) -> None:
    """Nobody can resize it from now on, nor map it writable where it is to be read only."""
    seals = _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL
    fcntl.fcntl(fd, _F_ADD_SEALS, seals | (_F_SEAL_FUTURE_WRITE if read_only else 0))


class DeviceSlab:
    """Device memory of `nbytes`, shared by its IPC handle."""

    def __init__(self, pointer: int, nbytes: int, device: torch.device, *, owned: bool) -> None:
        self.pointer, self._owned = pointer, owned
        self.bytes = torch.as_tensor(_Pointer(pointer, nbytes), device=device)

    @classmethod
    def create(cls, nbytes: int, device: torch.device) -> DeviceSlab:
        """Allocates a slab.

        Raises:
            torch.OutOfMemoryError: if the device has no room.
        """
        torch.cuda.synchronize(device)
        pointer, size = ctypes.c_uint64(), ctypes.c_size_t(-(-nbytes // _DEVICE_PAGE) * _DEVICE_PAGE)
        if driver().cuMemAlloc_v2(ctypes.byref(pointer), size) != 0:
            torch.cuda.empty_cache()
            if driver().cuMemAlloc_v2(ctypes.byref(pointer), size) != 0:
                raise torch.OutOfMemoryError(f"no room for a slab of {nbytes >> 20} MiB")
        return cls(pointer.value, nbytes, device, owned=True)

    @classmethod
    def open(cls, handle: bytes, device: torch.device, *, limit: int = 1 << 40) -> DeviceSlab:
        """Maps another process's allocation by its handle.

        Raises:
            ProtocolError: if the handle opens nothing, or something that is too large.
        """
        pointer = ctypes.c_uint64()
        if len(handle) != 64 or device.type != "cuda":
            raise ProtocolError("not a memory handle")
        status = driver().cuIpcOpenMemHandle_v2(
            ctypes.byref(pointer), _Handle.from_buffer_copy(handle), ctypes.c_uint(1)
        )
        if status != 0:
            raise ProtocolError(f"a memory handle that does not open (driver error {status})")
        _, size = address_range(pointer.value)
        slab = cls(pointer.value, size, device, owned=False)
        if size > limit:
            slab.close()
            raise ProtocolError("an allocation over the limit")
        return slab

    @property
    def handle(self) -> bytes:
        return ipc_handle(self.pointer)

    def close(self) -> None:
        release = driver().cuMemFree_v2 if self._owned else driver().cuIpcCloseMemHandle
        del self.bytes
        release(ctypes.c_uint64(self.pointer))


def address_range(pointer: int) -> tuple[int, int]:
    """Base address and size in bytes of the device allocation that holds `pointer`."""
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    check(driver().cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(pointer)))
    return base.value, size.value


def ipc_handle(base: int) -> bytes:
    """The handle by which another process maps the allocation that begins at `base`."""
    handle = _Handle()
    check(driver().cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(base)))
    return bytes(handle)


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * 64)]

    def __bytes__(self) -> bytes:
        return ctypes.string_at(ctypes.addressof(self), 64)


class _Pointer:
    """Device memory as the CUDA array interface describes it."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }


@cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's own interface."""
    torch.cuda.init()
    torch.empty(1, device="cuda")  # makes the primary context current, which the driver's calls need
    return ctypes.CDLL("libcuda.so.1")


def check(status: int) -> None:
    """Raises a RuntimeError for what a call of the driver does not do."""
    if status != 0:
        raise RuntimeError(f"CUDA driver error {status}")
