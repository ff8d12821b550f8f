"""What referee and player say to each other: length-prefixed JSON over one Unix socket, file descriptors beside it.

A frame is a 4-byte little-endian length and that many bytes of UTF-8 JSON, an object. The reader bounds the length
before it allocates, so a player sizes nothing of the referee's; nothing is ever unpickled. Messages name memory by
`TensorRef`: a slab of the arena, an offset and a layout.
"""

from __future__ import annotations

import array
import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_FRAME = 1 << 21
MAX_DETAIL = 4000
_LENGTH = struct.Struct("<I")
_MAX_FDS = 16


class ProtocolError(Exception):
    """The peer sent something that is not a message."""


class PeerClosed(Exception):
    """The peer hung up."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor's place: slab, byte offset, shape, stride (elements) and dtype name (`bfloat16`)."""

    slab: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> TensorRef:
        """Reads a reference from untrusted JSON.

        Raises:
            ProtocolError: if it is not one.
        """
        try:
            slab, dtype = data["slab"], data["dtype"]
            shape, stride = tuple(data["shape"]), tuple(data["stride"])
            numbers = (data["offset"], *shape, *stride)
        except (KeyError, TypeError) as error:
            raise ProtocolError("not a tensor reference") from error
        if not (isinstance(slab, str) and isinstance(dtype, str) and len(shape) == len(stride) <= 8):
            raise ProtocolError("not a tensor reference")
        if not all(type(v) is int and 0 <= v < 1 << 48 for v in numbers):
            raise ProtocolError("not a tensor reference: numbers out of range")
        return cls(slab, data["offset"], shape, stride, dtype)

    def part(self, index: int, itemsize: int) -> TensorRef:
        """The place of one item of the first dimension; an element has `itemsize` bytes."""
        offset = self.offset + index * self.stride[0] * itemsize
        return TensorRef(self.slab, offset, self.shape[1:], self.stride[1:], self.dtype)

    @property
    def span(self) -> int:
        """Elements between the first and the last one, both included."""
        if math.prod(self.shape) == 0:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


class Channel:
    """One end of the socket between referee and player."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = (), *, timeout: float | None = None) -> None:
        """Sends one frame, descriptors with its first byte.

        Raises:
            PeerClosed: if the peer is gone.
            TimeoutError: if it does not read in time.
        """
        body = json.dumps(message, separators=(",", ":")).encode()
        frame = memoryview(_LENGTH.pack(len(body)) + body)
        self._sock.settimeout(timeout)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._sock.sendmsg([frame], rights)
            if sent < len(frame):
                self._sock.sendall(frame[sent:])
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerClosed(str(error)) from error

    def pending(self) -> bool:
        """Whether `receive` would find something at once, if only that the peer is gone."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def receive(self, *, timeout: float | None = None, limit: int = MAX_FRAME) -> tuple[dict[str, Any], list[int]]:
        """The next frame and the descriptors that came with it.

        Raises:
            ProtocolError: on a frame over `limit` bytes or one that is no JSON object.
            PeerClosed: if the peer is gone.
            TimeoutError: if the whole frame is not there after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        fds: list[int] = []
        try:
            return self._message(deadline, limit, fds), fds
        except BaseException:
            # Nobody will ask for the descriptors of a message that is refused.
            for fd in fds:
                os.close(fd)
            raise

    def _message(self, deadline: float | None, limit: int, fds: list[int]) -> dict[str, Any]:
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline, fds))
            if length > limit:
                raise ProtocolError(f"a frame of {length} bytes")
            message = json.loads(self._read(length, deadline, fds))
        except (ValueError, RecursionError) as error:
            raise ProtocolError("a frame that is not JSON") from error
        if not isinstance(message, dict):
            raise ProtocolError("a frame that is no object")
        return message

    def _read(self, size: int, deadline: float | None, fds: list[int]) -> bytes:
        parts: list[bytes] = []
        while size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("no answer in time")
                self._sock.settimeout(left)
            else:
                self._sock.settimeout(None)
            try:
                data, received, _, _ = socket.recv_fds(self._sock, min(size, 1 << 16), _MAX_FDS)
            except TimeoutError:
                raise
            except OSError as error:
                raise PeerClosed(str(error)) from error
            fds.extend(received)
            if not data:
                raise PeerClosed("the peer hung up")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)
