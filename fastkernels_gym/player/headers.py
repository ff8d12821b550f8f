"""torch's C++ headers, compiled once by trusted code, so that a candidate's `load_inline` does not compile them again.

`torch/extension.h` is most of what a cold `load_inline` compiles. gcc takes a precompiled header instead wherever
it finds one in front of the header itself; the folder reaches it through `CPATH`, read-only, so that candidates need to
do nothing. gcc checks that compiler, flags and macros are the same and else reads the header as ever. nvcc ignores it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from fastkernels_gym.errors import SandboxUnavailable

MOUNTED = "/run/headers"
COMMAND = "python -m fastkernels_gym.player.headers"
_HEADER = "torch/extension.h"
_BUILD_S = 600


def compiled() -> Path | None:
    """The folder of the headers compiled for this compiler, torch and interpreter; None until `COMMAND` has run."""
    compiler = shutil.which("c++")
    if compiler is None or not _cache().is_dir():  # what the name depends on takes a while to find out
        return None
    folder = _folder(compiler)
    return folder if (folder / f"{_HEADER}.gch").is_file() else None


def compile_headers() -> Path:
    """Compiles the headers into this user's cache, unless they are there.

    Returns:
        The folder, named by a hash of all that they depend on.

    Raises:
        SandboxUnavailable: if there is no C++ compiler, it fails, or it does not take what it compiled.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        raise SandboxUnavailable("no C++ compiler: install g++")
    folder = _folder(compiler)
    if (folder / f"{_HEADER}.gch").is_file():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        target = Path(scratch, "new", f"{_HEADER}.gch")
        target.parent.mkdir(parents=True)
        line = [*_command(compiler), "-o", str(target)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=_BUILD_S, check=False)
        if done.returncode != 0:
            raise SandboxUnavailable(f"torch's headers do not compile: {done.stderr.strip()[:500]}")
        _require_taken(compiler, target.parents[1])
        target.parents[1].rename(folder)
    return folder


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "fastkernels-gym" / "headers"


def _folder(compiler: str) -> Path:
    import torch

    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    key = "\0".join((*_command(compiler), version, torch.__version__, sys.version))
    return _cache() / hashlib.sha256(key.encode()).hexdigest()[:16]


def _require_taken(compiler: str, folder: Path) -> None:
    """Raises what the compiler says where it does not take the header as an extension would include it."""
    line = [*_flags(compiler), "-DTORCH_EXTENSION_NAME=any", "-H", "-Winvalid-pch", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(
        line, input=f"#include <{_HEADER}>\n", env={**os.environ, "CPATH": str(folder)},
        capture_output=True, text=True, timeout=_BUILD_S, check=False,
    )  # fmt: skip
    if f"! {folder / _HEADER}.gch" not in done.stderr:
        said = [line for line in done.stderr.splitlines() if ".gch: " in line]
        raise SandboxUnavailable(f"{compiler} does not take its compiled header: {' '.join(said)[:500] or 'no reason'}")


def _command(compiler: str) -> list[str]:
    import torch

    header = Path(torch.__file__).parent / "include" / _HEADER
    return [*_flags(compiler), "-w", "-x", "c++-header", str(header)]


def _flags(compiler: str) -> list[str]:
    """The compiler as `load_inline` runs it; macros that the header does not name may differ."""
    import torch

    root = Path(torch.__file__).parent / "include"
    folders = (root, root / "torch/csrc/api/include", Path(sysconfig.get_path("include")))
    flags = ["-DTORCH_API_INCLUDE_EXTENSION_H", *(part for path in folders for part in ("-isystem", str(path)))]
    return [compiler, *flags, "-fPIC", _standard()]


def _standard() -> str:
    """The C++ standard that this torch compiles extensions by, which nothing but its source says; else C++17."""
    from torch.utils import cpp_extension

    found: list[str] = re.findall(r"-std=c\+\+\d+", inspect.getsource(cpp_extension))
    return found[-1] if found else "-std=c++17"


if __name__ == "__main__":
    try:
        print(compile_headers())
    except SandboxUnavailable as error:
        sys.exit(str(error))
