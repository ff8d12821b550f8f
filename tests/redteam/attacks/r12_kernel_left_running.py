# Row 12: a kernel is launched just before each answer leaves, and runs on while the baseline is timed.
# device: cuda
# expect: timing_inconsistent, ok
import torch
from fastkernels_gym.player import protocol
from torch import nn
from torch.nn.functional import silu

send = protocol.Channel.send
streams = []


def answer_late_by_a_kernel(self, message, *args, **kwargs):
    if isinstance(message, dict) and message.get("done"):
        if not streams:
            streams.append(torch.cuda.Stream())
        with torch.cuda.stream(streams[0]):
            torch.cuda._sleep(20_000_000)  # cycles: some ten milliseconds
    return send(self, message, *args, **kwargs)


protocol.Channel.send = answer_late_by_a_kernel


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
