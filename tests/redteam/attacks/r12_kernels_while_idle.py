# Row 12: a thread keeps the GPU busy whenever the player waits for its next window.
# device: cuda
# expect: timing_inconsistent, ok
import threading

import torch
from fastkernels_gym.player import protocol
from torch import nn
from torch.nn.functional import silu

receive = protocol.Channel.receive
idle = threading.Event()


def burn():
    stream = torch.cuda.Stream()
    a = torch.ones(4096, 4096, device="cuda", dtype=torch.bfloat16)
    with torch.cuda.stream(stream):
        while True:
            idle.wait()
            a @ a
            stream.synchronize()


def wait_busily(self, *args, **kwargs):
    if torch.cuda.is_initialized():
        if not threads:
            threads.append(threading.Thread(target=burn, daemon=True))
            threads[0].start()
        idle.set()
    try:
        return receive(self, *args, **kwargs)
    finally:
        idle.clear()


threads = []
protocol.Channel.receive = wait_busily


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
