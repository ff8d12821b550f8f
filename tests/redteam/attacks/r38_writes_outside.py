# Row 38: writes outside, through symlinks too.
# expect: ok
import os

import torch
from torch import nn
from torch.nn.functional import silu

os.symlink("/", "root")
for folder in ("/usr", "/usr/lib", "/run/kernels/triton", "/sys/kernel", "/proc/sys/kernel", "/proc/1/root/usr"):
    for prefix in ("", "root"):
        try:
            with open(f"{prefix}{folder}/fastkernels-redteam", "w"):
                raise RuntimeError(f"LOOT: {folder} can be written")
        except OSError:
            pass
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"):
    if os.access(path, os.W_OK):
        try:
            open(path, "w").close()
            raise RuntimeError(f"LOOT: {path} can be opened for writing")
        except OSError:
            pass


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
