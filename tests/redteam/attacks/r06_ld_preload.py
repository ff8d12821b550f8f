# Row 6: the process replaced by itself under LD_PRELOAD, with a clock of the attacker's.
# hurried: yes
# expect: timeout, runtime_error, load_error, protocol_tamper
import os
import subprocess
import sys

import torch
from torch import nn
from torch.nn.functional import silu

SOURCE = "long clock_gettime(int id, long *t) { t[0] = t[1] = 0; return 0; }"
open("clock.c", "w").write(SOURCE)
subprocess.run(["gcc", "-shared", "-fPIC", "-o", "clock.so", "clock.c"], check=False)
os.environ["LD_PRELOAD"] = os.path.abspath("clock.so")
files = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
socket, bell = (max(fd for fd, name in files.items() if kind in name) for kind in ("socket", "memfd"))
for fd in (socket, bell):
    os.set_inheritable(fd, True)
server = "import socket, sys; from fastkernels_gym.player import doorbell, protocol, worker; "
server += "channel, bell = protocol.Channel(socket.socket(fileno=int(sys.argv[1]))), doorbell.Doorbell(int(sys.argv[2])); "
server += "worker.serve(channel, bell, threads=1)"
os.execv(sys.executable, [sys.executable, "-c", server, str(socket), str(bell)])


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
