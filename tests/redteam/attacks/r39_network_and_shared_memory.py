# Row 39: network, loopback, Unix sockets and shared memory.
# expect: ok
import os
import socket

import torch
from torch import nn
from torch.nn.functional import silu

def loot(what):
    raise RuntimeError(f"LOOT: {what}")


for address in (("127.0.0.1", 48739), ("1.1.1.1", 53), ("169.254.169.254", 80)):
    try:
        socket.create_connection(address, timeout=0.2)
    except OSError:
        continue
    loot(address)
for name in ("\0fastkernels-redteam", "/var/run/docker.sock", "/run/dbus/system_bus_socket"):
    try:
        socket.socket(socket.AF_UNIX).connect(name)
    except OSError:
        continue
    loot(name)
if any(not line.strip().startswith("lo:") for line in list(open("/proc/net/dev"))[2:]):
    loot("a network interface")
if os.listdir("/dev/shm") or len(list(open("/proc/sysvipc/shm"))) > 1:
    loot("shared memory")


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
