# Row 32: harness and site-packages edited on disk; sitecustomize, usercustomize and .pth files planted.
# expect: ok
import os
import site

import fastkernels_gym

import torch
from torch import nn
from torch.nn.functional import silu

code = "raise SystemExit"
for place in (fastkernels_gym.__path__[0], torch.__path__[0], *site.getsitepackages(), os.path.dirname(os.__file__)):
    for name in ("sitecustomize.py", "usercustomize.py", "evil.pth", "__init__.py", "player/worker.py"):
        try:
            with open(os.path.join(place, name), "a") as file:
                file.write("")
            raise RuntimeError(f"LOOT: {place}/{name} can be written")
        except OSError:
            pass
os.environ["PYTHONPATH"] = os.getcwd()


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
