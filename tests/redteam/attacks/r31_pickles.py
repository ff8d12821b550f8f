# Row 31: pickles that execute when loaded: as a frame, and as the value returned.
# expect: protocol_tamper, runtime_error
import gc
import os
import pickle
import socket
import struct

import torch
from torch import nn
from torch.nn.functional import silu

class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/fastkernels-redteam",)


PICKLE = pickle.dumps(Bomb())
SOCKET = socket.socket(fileno=next(c for c in gc.get_objects() if type(c).__name__ == "Channel").fileno())


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        SOCKET.sendall(struct.pack("<I", len(PICKLE)) + PICKLE)
        return Bomb()
