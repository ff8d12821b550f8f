# Row 37: environment keys, /proc of others, homes and the repository are read.
# expect: ok
import glob
import os
import pathlib

import fastkernels_gym

import torch
from torch import nn
from torch.nn.functional import silu

def loot(what):
    raise RuntimeError(f"LOOT: {what}")


for name in os.environ:
    if any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD", "REDTEAM")):
        loot(name)
for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/var/run/docker.sock", "/var/lib", "/mnt", "/srv"):
    if os.path.exists(path):
        loot(path)
for home in ("/root", *glob.glob("/home/*"), os.path.expanduser("~")):
    for name in (".ssh", ".netrc", ".bashrc", ".bash_history", ".gitconfig", ".aws", ".cache/huggingface", ".config"):
        if os.path.exists(os.path.join(home, name)):
            loot(os.path.join(home, name))
package = pathlib.Path(fastkernels_gym.__path__[0])
for name in ("referee/trial.py", "executor/worker.py", "../tests", "../.git", "../docs", "../benchmarks"):
    if (package / name).exists():
        loot(name)
for path in glob.glob("/proc/[0-9]*"):
    if int(path[6:]) != os.getpid() and b"fastkernels" in open(path + "/cmdline", "rb").read():
        loot(path)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
