# Row 32: the player's stream says done before the work that it stands for.
# device: cuda
# expect: wrong_value, unwritten_output, nondeterministic
import torch
from torch import nn
from torch.nn.functional import silu

from fastkernels_gym.player import doorbell


def enqueue(self, window, work):
    self._semaphores.wait_for(doorbell._GO_WORD, window)
    self._semaphores.write(doorbell._DONE_WORD, window)
    work()
    self._bytes[doorbell._ARMED] = doorbell._byte(window)


doorbell.Doorbell.enqueue = enqueue


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        out = silu(gate)
        for _ in range(16):
            out = torch.nan_to_num(out)
        return out * up
