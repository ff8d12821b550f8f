"""Words of host memory that a device waits for and writes, each in the order of a stream: no processor takes part."""

from __future__ import annotations

import ctypes
import mmap

import torch

from fastkernels_gym.player.memory import check, driver

_PORTABLE, _MAPPED = 1, 2
_AT_LEAST = 0  # what a wait is for, in 32 bits that wrap around


class Semaphores:
    """The words of a page, 32 bits each; other processes may have it too. The device knows them once it is asked to.

    Args:
        page: mapped; must not be closed before this is.
    """

    def __init__(self, page: mmap.mmap) -> None:
        self._words, self._size = memoryview(page).cast("I"), len(page)
        self._address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        self._pointer = 0  # the device's, from its first use on

    def __getitem__(self, word: int) -> int:
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._words[word] = value

    def wait_for(self, word: int, value: int) -> None:
        """What comes next in the current stream waits until the word is at least this.

        Raises:
            RuntimeError: if the driver will not.
        """
        self._enqueue(driver().cuStreamWaitValue32_v2, word, value, _AT_LEAST)

    def write(self, word: int, value: int) -> None:
        """The word becomes this when all that is in the current stream is done; raises as `wait_for` does."""
        self._enqueue(driver().cuStreamWriteValue32_v2, word, value, 0)

    def close(self) -> None:
        if self._pointer:
            driver().cuMemHostUnregister(self._address)
        self._words.release()

    def _enqueue(self, operation: ctypes._NamedFuncPointer, word: int, value: int, flags: int) -> None:
        if not self._pointer:
            self._register()
        stream, at = torch.cuda.current_stream().cuda_stream, self._pointer + 4 * word
        check(operation(ctypes.c_void_p(stream), ctypes.c_uint64(at), ctypes.c_uint32(value), ctypes.c_uint(flags)))

    def _register(self) -> None:
        pointer, flags = ctypes.c_uint64(), ctypes.c_uint(_PORTABLE | _MAPPED)
        check(driver().cuMemHostRegister_v2(self._address, ctypes.c_size_t(self._size), flags))
        check(driver().cuMemHostGetDevicePointer_v2(ctypes.byref(pointer), self._address, ctypes.c_uint(0)))
        self._pointer = pointer.value
