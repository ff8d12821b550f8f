"""The trusted process that players are forked from: torch and triton are loaded, CUDA and the operators are not.

A fork costs milliseconds where imports cost seconds. Each player is process 1 of a pid namespace of its own, nested in
the zygote's user namespace: it cannot signal or trace the zygote or another player, and killing it kills whatever it
started. The zygote hands its pidfd to the referee with the player's first message.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from fastkernels_gym.player import seccomp
from fastkernels_gym.player.doorbell import Doorbell
from fastkernels_gym.player.protocol import Channel, PeerClosed
from fastkernels_gym.player.sandbox import COMPILERS, LENT_PROC, TMP_BYTES, TMP_FILES, WARM_CACHE, Limits

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_NESTED = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWNET
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 2, 4, 8, 0x20, 0x1000, 0x4000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24
_CAP_LAST = 40
# Imported before the fork; any other type is imported by the player itself.
_CONFIGS = ("llama", "qwen2", "qwen3", "gemma3_text", "phi3")


def main() -> None:
    """Serves `spawn` messages on the descriptor named on the command line until the referee hangs up.

    There follow `nested` or `flat`, the GPU's compute capability (0 for none), and what stays visible under /tmp.
    """
    control = Channel(socket.socket(fileno=int(sys.argv[1])))
    nested, capability, kept = sys.argv[2] == "nested", int(sys.argv[3]), sys.argv[4:]
    import torch
    import torch.nn.attention.varlen  # brings torch._dynamo along: half a second, in every player
    from transformers import AutoConfig

    from fastkernels_gym.player.first_uses import compile_once

    for model_type in _CONFIGS:
        AutoConfig.for_model(model_type)
    if capability:
        compile_once(capability)
    torch.set_num_threads(1)
    # Frozen objects keep their pages shared with the players.
    gc.collect()
    gc.freeze()
    if not nested:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead players are reaped by the kernel
    control.send({"ready": True})
    while True:
        try:
            message, fds = control.receive()
        except PeerClosed:
            return
        child = os.fork()
        if child == 0:
            control.close()
            _become_player(socket.socket(fileno=fds[0]), Doorbell(fds[1]), message, kept if nested else None)
        for fd in fds:
            os.close(fd)
        if nested:
            os.waitpid(child, 0)  # it only made the namespaces; the player is its child


def _become_player(sock: socket.socket, bell: Doorbell, message: dict[str, Any], kept: list[str] | None) -> None:
    """In the child: never returns.

    Args:
        sock: the player's end of its socket.
        bell: and of its doorbell.
        message: the spawn request.
        kept: what stays visible under /tmp; None leaves out the namespaces.
    """
    try:
        if kept is None:
            # No pid namespace will take it along when the zygote dies.
            _libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        else:
            _enter_namespaces(kept)
        Limits(**message["limits"]).apply()
        _silence()
        channel, pidfd = Channel(sock), os.pidfd_open(os.getpid())
        channel.send({"hello": True}, [pidfd])
        os.close(pidfd)
        if kept is not None:
            _lend_kernels()
        from fastkernels_gym.player.worker import serve

        serve(channel, bell, threads=message["threads"])
    except BaseException as error:  # the last frame of a forked process: nothing may return into the zygote's loop
        sys.stderr.write(f"player: {error!r}\n")
    os._exit(1)


def _enter_namespaces(kept: list[str]) -> None:
    _unshare(kept)
    if os.fork():
        os._exit(0)
    _mount_proc()
    _drop_privileges()
    if not seccomp.missing():
        seccomp.install()


def _lend_kernels() -> None:
    """Puts what trusted code has compiled where it is found: Triton names a kernel's files by absolute paths."""
    for name, variable in COMPILERS.items():
        unfinished = shutil.ignore_patterns("tmp.*")
        shutil.copytree(f"{WARM_CACHE}/{name}", os.environ[variable], ignore=unfinished, dirs_exist_ok=True)
    for group in Path(os.environ[COMPILERS["triton"]]).glob("*/__grp__*.json"):
        named = json.loads(group.read_text())["child_paths"]
        group.write_text(json.dumps({"child_paths": {name: str(group.parent / name) for name in named}}))


def _unshare(kept: list[str]) -> None:
    uid, gid = os.getuid(), os.getgid()
    _libc("unshare", _NESTED)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    folders = {path: os.open(path, os.O_PATH) for path in kept}
    quota = f"size={TMP_BYTES},nr_inodes={TMP_FILES}".encode()
    for target in (b"/tmp", b"/dev/shm"):
        _libc("mount", b"tmpfs", target, b"tmpfs", _MS_NOSUID | _MS_NODEV, quota)
    for path, fd in folders.items():
        os.makedirs(path)
        _libc("mount", f"/proc/self/fd/{fd}".encode(), path.encode(), None, _MS_BIND | _MS_REC, None)
        os.close(fd)
    os.chdir("/tmp")


def _mount_proc() -> None:
    """The pid namespace's own /proc, which CUDA needs; what root could write there is read-only.

    The kernel allows the mount only while an unmasked /proc is in view: the outer sandbox lends one, covered here.
    """
    _libc("mount", b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)
    _libc("mount", b"tmpfs", LENT_PROC.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_RDONLY, b"size=4k")
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"):
        path = f"/proc/{name}".encode()
        if os.path.exists(path):
            _libc("mount", path, path, None, _MS_BIND, None)
            flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            _libc("mount", None, path, None, flags, None)


def _drop_privileges() -> None:
    for capability in range(_CAP_LAST + 1):
        _libc("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _libc("capset", header, (ctypes.c_uint32 * 6)())
    _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _silence() -> None:
    """A candidate's prints go nowhere: nothing it writes can fill a disk or reach a terminal."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _libc(name: str, *arguments: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


if __name__ == "__main__":
    main()
