"""Runs Triton kernels on a CPU: a process in which triton, its own library included, is imported to be interpreted.

A job is `("<L1 file>.<function>", arguments)`, the answer `(result, arguments as they are afterwards, error)`; both as
`torch.save` writes them, so that strides and shared storage survive.
"""

import importlib
import io
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch


def pack(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)


def serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            name, arguments = unpack(connection.recv_bytes())
        except EOFError:
            return
        result, error = None, ""
        try:
            file, _, function = name.partition(".")
            module = importlib.import_module(f"fastkernels_gym.tasks.baseline.L1.{file}")
            result = getattr(module, function)(*arguments)
        except Exception:
            error = traceback.format_exc()
        connection.send_bytes(pack((result, arguments, error)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
