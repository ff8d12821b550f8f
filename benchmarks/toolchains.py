"""What toolchains cost: seconds until the first kernel of a candidate has run, nothing of it compiled before.

python benchmarks/toolchains.py
python benchmarks/toolchains.py --cpp

Honest kernels of tests/redteam/honest, each in a fresh process with caches of its own, which looks at the clock once it
has imported torch and called it. Quick ones are tried several times: median, least and most. `load_inline` is tried
with torch's C++ header compiled before, too. Needs nvcc, g++ and ninja, and a GPU unless --cpp: then only a C++
extension is built.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import ROOT, facts

from fastkernels_gym.errors import SandboxUnavailable
from fastkernels_gym.player import headers

_HONEST = ROOT / "tests/redteam/honest"
_CPP = """
from torch.utils.cpp_extension import load_inline
load_inline("twice", "torch::Tensor run(torch::Tensor x) { return x * 2; }", functions=["run"])
"""
_BEFORE = """
import time, torch, triton, torch.utils.cpp_extension
torch.ones(8, device="{device}").abs_().tolist()
begin = time.monotonic()
"""
_CALL = """
SiluAndMul()(torch.ones(8, 256, device="cuda", dtype=torch.bfloat16)).tolist()
"""
_AFTER = """
print(time.monotonic() - begin)
"""
_KERNELS = {"Triton": "triton_tiled", "NVRTC": "cuda_nvrtc"}
_LOAD_INLINE = {
    "load_inline, no torch headers in the CUDA source": "cuda_load_inline_plain",
    "load_inline": "cuda_load_inline",
}
_REPEATS = 7
_CACHES = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpp", action="store_true", help="a C++ extension alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/toolchains.json")
    options = parser.parse_args()
    device = "cpu" if options.cpp else "cuda"
    seconds: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    data = {
        **facts(torch.device(device)), "unit": "seconds until a first kernel has run", "cold": seconds, "spread": spread
    }  # fmt: skip

    def note(name: str, *took: float) -> None:
        seconds[name] = round(statistics.median(took), 2)
        if len(took) > 1:
            spread[name] = round(min(took), 2), round(max(took), 2)
        print(f"{name:<80} {seconds[name]:6.2f} s", flush=True)
        options.out.write_text(json.dumps(data, indent=1) + "\n")  # each of them may take a minute

    if options.cpp:
        kernels, sources = {}, {"C++": _CPP}
    else:
        kernels = {name: _with_call(file) for name, file in _KERNELS.items()}
        sources = {name: _with_call(file) for name, file in _LOAD_INLINE.items()}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # headers are compiled anew, whatever this user has compiled before
        cold("", device)  # the first process after the machine's start reads torch from its disk
        for name, source in kernels.items():
            note(name, *(cold(source, device) for _ in range(_REPEATS)))
        for name, source in sources.items():
            note(name, cold(source, device))
        begin = time.monotonic()
        try:
            folder = headers.compile_headers()
        except SandboxUnavailable as error:
            data["fault"] = str(error)
            note("compiling torch's header, in vain", time.monotonic() - begin)
            return
        note("compiling torch's header", time.monotonic() - begin)
        for name, source in sources.items():
            note(f"{name}, header compiled before", cold(source, device, folder))


def _with_call(file: str) -> str:
    return (_HONEST / f"{file}.py").read_text() + _CALL


def cold(source: str, device: str, folder: Path | None = None) -> float:
    """Seconds that a source takes in a fresh process with empty caches, imports and the device's start not counted.

    Args:
        source: Python.
        device: called once before.
        folder: of a compiled header that g++ finds first.
    """
    with tempfile.TemporaryDirectory() as caches:
        environment = {**os.environ, **{name: f"{caches}/{name}" for name in _CACHES}}
        for name in ("CPATH", "CXX"):  # as in the sandbox
            environment.pop(name, None)
        if folder is not None:
            environment["CPATH"] = str(folder)
        script = Path(caches, "source.py")  # Triton reads a kernel's source from its file
        script.write_text(_BEFORE.format(device=device) + source + _AFTER)
        done = subprocess.run(
            [sys.executable, "-P", script], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
