# Row 12: kernels on a stream of its own whenever the candidate itself is not running: the baseline shares the device.
# device: cuda
# expect: ok, timing_inconsistent
import gc
import threading

import torch
from torch import nn
from torch.nn.functional import silu

idle = threading.Event()
tables = [
    thing for thing in gc.get_objects() if isinstance(thing, dict) and {"load", "bind", "drop"} <= {*map(str, thing)}
]


def haunt():
    stream = torch.cuda.Stream()
    while True:
        idle.wait()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1 << 20)  # half a millisecond
        stream.synchronize()


def haunting(honest):
    def run(message, fds):
        idle.clear()
        try:
            return honest(message, fds)
        finally:
            idle.set()

    return run


for table in tables:
    table["run"] = haunting(table["run"])
threading.Thread(target=haunt, daemon=True).start()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
