"""What a cold `load_inline` costs: torch's headers in the CUDA source, or not; the C++ header compiled before, or not.

python benchmarks/load_inline.py

Needs nvcc, g++ and ninja, and a CUDA build of torch unless --cpp: then only a C++ extension is built. Two honest
kernels of tests/redteam/honest are imported, each in a process and a cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fastkernels_gym.player import headers

ROOT = Path(__file__).resolve().parents[1]
HONEST = ROOT / "tests/redteam/honest"
CPP = """
from torch.utils.cpp_extension import load_inline
load_inline("twice", "torch::Tensor run(torch::Tensor x) { return x * 2; }", functions=["run"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpp", action="store_true", help="a C++ extension alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/load-inline.json")
    options = parser.parse_args()
    begin = time.monotonic()
    folder = headers.compile_headers()
    precompile_s = time.monotonic() - begin
    names = ("cuda_load_inline", "cuda_load_inline_plain")
    sources = {"cpp": CPP} if options.cpp else {name: (HONEST / f"{name}.py").read_text() for name in names}
    seconds = {
        name: {"as ever": cold(source, None), "header compiled before": cold(source, folder)}
        for name, source in sources.items()
    }
    data = {
        "command": " ".join(["python", "benchmarks/load_inline.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({os.cpu_count()} cores)",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "precompile_s": round(precompile_s, 1),
        "header_mib": (folder / "torch/extension.h.gch").stat().st_size >> 20,
        "cold_s": seconds,
    }
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


def cold(source: str, folder: Path | None) -> float:
    """Seconds of a fresh process that builds and imports, less those of importing torch."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCH_EXTENSIONS_DIR": cache}
        environment.pop("CPATH", None)
        if folder is not None:
            environment["CPATH"] = str(folder)
        took = []
        for code in ("import torch, torch.utils.cpp_extension", source):
            begin = time.monotonic()
            subprocess.run([sys.executable, "-P", "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
            took.append(time.monotonic() - begin)
    return round(took[1] - took[0], 1)


if __name__ == "__main__":
    main()
