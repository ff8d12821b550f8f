# Row 32: the player's stream never says done, and the player says it has answered.
# device: cuda
# expect: ok, wrong_value, unwritten_output, nondeterministic
from torch import nn
from torch.nn.functional import silu

from fastkernels_gym.player import doorbell


def enqueue(self, window, work):
    self._semaphores.wait_for(doorbell._GO_WORD, window)
    work()
    self._bytes[doorbell._ARMED] = doorbell._byte(window)


doorbell.Doorbell.enqueue = enqueue


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
