# Row 7: "done" is sent early, and the work goes on.
# expect: wrong_value, nondeterministic, unwritten_output, protocol_tamper
import gc
import socket
import struct
import time

import torch
from torch import nn
from torch.nn.functional import silu

DONE = b'{"done":true}'
CHANNEL = next(c for c in gc.get_objects() if type(c).__name__ == "Channel")
SEEN = []
SOCKET = socket.socket(fileno=CHANNEL.fileno())


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
        self.seen = SEEN

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        if len(self.seen) > 40:
            SOCKET.sendall(struct.pack("<I", len(DONE)) + DONE)
            time.sleep(0.05)
        self.seen.append(1)
        return silu(gate) * up
