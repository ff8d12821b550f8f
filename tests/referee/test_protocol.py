"""Arbitrary bytes from a player are refused, never believed, and size nothing."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_gym.player.memory import HostSlab, view
from fastkernels_gym.player.protocol import MAX_FRAME, Channel, PeerClosed, ProtocolError, TensorRef

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def receive(data: bytes) -> dict[str, object]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: (theirs.sendall(data), theirs.shutdown(socket.SHUT_WR)))
        sender.start()
        try:
            return Channel(ours).receive(timeout=5)[0]
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            sender.join()


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_no_message(data: bytes) -> None:
    with pytest.raises((ProtocolError, PeerClosed)):
        receive(struct.pack("<I", len(data)) + b"\xff" + data)


@settings(max_examples=100)
@given(st.integers(min_value=MAX_FRAME + 1, max_value=(1 << 32) - 1))
def test_a_length_over_the_limit_is_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(ProtocolError):
        receive(struct.pack("<I", length))


@settings(max_examples=200)
@given(JSON)
def test_only_objects_are_messages(value: object) -> None:
    body = json.dumps(value).encode()
    frame = struct.pack("<I", len(body)) + body
    if isinstance(value, dict):
        assert receive(frame) == value
    else:
        with pytest.raises(ProtocolError):
            receive(frame)


def test_deep_nesting_is_refused() -> None:
    body = b"[" * 200_000
    with pytest.raises(ProtocolError):
        receive(struct.pack("<I", len(body)) + body)


def test_a_silent_peer_times_out() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\x10")
        with pytest.raises(TimeoutError):
            Channel(ours).receive(timeout=0.1)


@settings(max_examples=300)
@given(JSON)
def test_any_json_is_a_reference_or_is_refused(value: object) -> None:
    try:
        ref = TensorRef.from_json(value)
    except ProtocolError:
        return
    assert ref.offset >= 0


numbers = st.integers(min_value=0, max_value=1 << 12)


@settings(max_examples=300)
@given(
    numbers, st.lists(st.tuples(numbers, numbers), max_size=4), st.sampled_from(["float32", "bfloat16", "int64", "x"])
)
def test_no_reference_leaves_its_slab(offset: int, dims: list[tuple[int, int]], dtype: str) -> None:
    slab = torch.zeros(4096, dtype=torch.uint8)
    ref = TensorRef("s", offset, tuple(d for d, _ in dims), tuple(s for _, s in dims), dtype)
    try:
        tensor = view(slab, ref)
    except ProtocolError:
        return
    if tensor.numel():
        last = tensor.storage_offset() + sum((d - 1) * s for d, s in zip(tensor.shape, tensor.stride(), strict=True))
        assert (last + 1) * tensor.element_size() <= 4096


def test_a_sealed_slab_cannot_be_truncated_nor_weights_be_written() -> None:
    slab = HostSlab.create(4096, read_only=True)
    with pytest.raises(PermissionError):
        os.ftruncate(slab.fd, 0)
    with pytest.raises(PermissionError):
        HostSlab(slab.fd, 4096, writable=True)
    slab.bytes.fill_(7)
    assert HostSlab(slab.fd, 4096, writable=False).bytes[0] == 7
    slab.close()
