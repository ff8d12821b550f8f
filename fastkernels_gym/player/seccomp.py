"""The last layer: a seccomp filter over the system calls that a kernel author never needs and an attacker may.

What namespaces and dropped capabilities refuse already is refused once more before the kernel's own code for it is
reached: debuggers, modules, mounts, keys, perf, bpf, io_uring, new namespaces. All else, what compilers, Triton and
CUDA use included, is allowed. The filter is classic BPF; `libseccomp`, which would assemble it, is on few machines.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

# (x86_64, aarch64), from the kernel's unistd.h; None where an architecture never had the call.
BLOCKED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # the kernel
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    # keys
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the machine
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    # memory that the watchdog cannot see
    "shmget": (29, 194),
}
# A socket family says how far a call reaches: vsock leads to the host of a virtual machine whatever the namespace is.
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _FILTER, _GET_ACTION_AVAIL = 22, 2, 2
_UNKNOWN = "no system call numbers for {}"


@dataclass(frozen=True, slots=True)
class _Architecture:
    column: int
    audit: int
    seccomp: int
    clone: int
    clone3: int
    socket: int
    socketpair: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0, 0xC000003E, seccomp=317, clone=56, clone3=435, socket=41, socketpair=53),
    "aarch64": _Architecture(1, 0xC00000B7, seccomp=277, clone=220, clone3=435, socket=198, socketpair=199),
}


def missing() -> str:
    """Why this machine cannot filter system calls; empty where it can."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return _UNKNOWN.format(machine)
    action = ctypes.c_uint32(_ERRNO)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_ARCHITECTURES[machine].seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) != 0:
        return f"the kernel refuses: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}"
    return ""


def install() -> None:
    """Filters this thread's system calls, and those of all it starts, for good; needs `no_new_privs`.

    Raises:
        OSError: if the kernel does not take the filter.
    """
    body = program(platform.machine())

    class SockFprog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(SockFprog(len(body) // 8, body)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")


def program(machine: str) -> bytes:
    """The filter for one architecture (`x86_64`, `aarch64`), as an array of struct sock_filter.

    Raises:
        KeyError: on any other architecture.
    """
    here = _ARCHITECTURES[machine]
    numbers = [pair[here.column] for pair in BLOCKED.values()]
    return b"".join(
        [
            # A system call by another architecture's table would pass by other numbers.
            _instruction(_LOAD, _ARCHITECTURE),
            _instruction(_EQUAL, here.audit, yes=1),
            _refuse(errno.ENOSYS),
            _instruction(_LOAD, _NUMBER),
            *((_instruction(_AT_LEAST, _X32_BIT, no=1), _refuse(errno.ENOSYS)) if machine == "x86_64" else ()),
            # Its flags lie in memory, where no filter sees them; libc falls back to clone.
            *_when([here.clone3], [_refuse(errno.ENOSYS)]),
            *_when([number for number in numbers if number is not None], [_refuse(errno.EPERM)]),
            *_when([here.clone], [*_if(_ANY_BIT, _NEW_NAMESPACES)]),
            *_when([here.socket, here.socketpair], _unless_one_of(_FAMILIES)),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; `yes` and `no` are how many to skip when a comparison holds or fails."""
    return struct.pack("=HBBI", code, yes, no, value)


def _refuse(error: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | error)


def _when(numbers: list[int], body: list[bytes]) -> Iterable[bytes]:
    """Runs `body`, which must return, for these system call numbers, which the accumulator is compared with."""
    for number in numbers:
        yield _instruction(_EQUAL, number, no=len(body))
        yield from body


def _if(comparison: int, value: int) -> list[bytes]:
    """Refuses where the comparison with the first argument's low half holds, else allows."""
    return [
        _instruction(_LOAD, _ARGUMENT),
        _instruction(comparison, value, no=1),
        _refuse(errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


def _unless_one_of(values: Iterable[int]) -> list[bytes]:
    allowed = [part for value in values for part in (_instruction(_EQUAL, value, no=1), _instruction(_RETURN, _ALLOW))]
    return [_instruction(_LOAD, _ARGUMENT), *allowed, _refuse(errno.EPERM)]
