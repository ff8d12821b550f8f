# Row 30: a message that is no JSON, with descriptors that the referee then owns.
# expect: protocol_tamper
import array
import gc
import socket
import struct
import time

import torch
from torch import nn
from torch.nn.functional import silu

channel = next(c for c in gc.get_objects() if type(c).__name__ == "Channel")
player = socket.socket(fileno=channel.fileno())


def frame(body):
    return struct.pack("<I", len(body)) + body


rights = array.array("i", [0] * 16)
player.sendmsg([frame(b"x")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
time.sleep(5)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return torch.zeros_like(gate)
