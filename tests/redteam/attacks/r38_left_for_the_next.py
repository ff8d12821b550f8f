# Row 38: files left for the next evaluation wherever the file system takes them.
# runs: 2
# expect: ok
import os

import torch
from torch import nn
from torch.nn.functional import silu

for folder, _, _ in os.walk("/"):
    if folder.count("/") > 2 or folder.startswith("/proc"):
        continue
    path = os.path.join(folder, "left-behind")
    if os.path.exists(path):
        raise RuntimeError(f"LOOT: {path}, left by an earlier evaluation")
    try:
        open(path, "w").close()
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
