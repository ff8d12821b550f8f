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
socket = max(int(fd) for fd in os.listdir("/proc/self/fd") if "socket" in str(os.path.realpath(f"/proc/self/fd/{fd}")))
os.set_inheritable(socket, True)
server = "import socket, sys; from fastkernels_gym.player import protocol, worker; "
server += "worker.serve(protocol.Channel(socket.socket(fileno=int(sys.argv[1]))), threads=1)"
os.execv(sys.executable, [sys.executable, "-c", server, str(socket)])


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
