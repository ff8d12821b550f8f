# Row 38: Triton's, inductor's and torch_extensions' caches poisoned for the next evaluation.
# runs: 2
# expect: ok
import os
import pathlib

import torch
from torch import nn
from torch.nn.functional import silu

for folder in {
    pathlib.Path(os.environ[name])
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH", "HOME", "TMPDIR")
}:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "poison").exists():
        raise RuntimeError(f"LOOT: poison from an earlier evaluation in {folder}")
    (folder / "poison").write_text("raise SystemExit")
    for kernel in folder.rglob("*.cubin"):
        kernel.write_bytes(b"poison")


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        for _ in range(3):
            out = silu(gate) * up
        return out
