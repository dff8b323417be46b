"""Limits and refused system calls of the process that runs a program. Runs inside the sandbox."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterable

NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2  # prctl(2)
LOAD, EQUAL, GREATER_OR_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
KILL, REFUSE, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NEW_USER_NAMESPACE = 0x10000000
UNIX, INET, INET6 = 1, 2, 10  # all other families go around the network namespace, vsock above all
FOREIGN_ABI = 0x40000000  # x32: the same calls under other numbers

# System calls that no solution needs: views into other processes, namespaces and mounts, memory
# that no limit counts, and large attack surfaces of the kernel. Same number everywhere from 424 on.
EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
NUMBERS = {
    "x86_64": {
        "architecture": 0xC000003E, "socket": 41, "socketpair": 53, "clone": 56, "clone3": 435,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272,
        "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
        "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "add_key": 248,
        "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "memfd_create": 319, "name_to_handle_at": 303,
        "open_by_handle_at": 304,
    },
    "aarch64": {
        "architecture": 0xC00000B7, "socket": 198, "socketpair": 199, "clone": 220, "clone3": 435,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97,
        "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "add_key": 217,
        "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "memfd_create": 279, "name_to_handle_at": 264,
        "open_by_handle_at": 265,
    },
}  # fmt: skip
HANDLED_APART = {"architecture", "socket", "socketpair", "clone", "clone3"}


def set_limits(limits: dict[str, float]) -> None:
    """Limit this process and whatever it starts; the names are those of `sandbox.Limits`."""
    seconds = max(1, round(limits["cpu_seconds"]))
    wanted: dict[int, float] = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in wanted.items():
        _limit(kind, int(value), int(value))
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # a signal, then the end


def _limit(kind: int, soft: int, hard: int) -> None:
    limit = resource.getrlimit(kind)[1]  # an ordinary user cannot go beyond
    if limit != resource.RLIM_INFINITY:
        soft, hard = min(soft, limit), min(hard, limit)
    resource.setrlimit(kind, (soft, hard))


def refuse_system_calls(machine: str | None = None) -> None:
    """Take the dangerous system calls from this process and whatever it starts, for good.

    On machines other than x86_64 and aarch64 nothing is taken: numbers differ.
    """
    machine = machine or os.uname().machine
    if machine not in NUMBERS:
        return
    program = b"".join(struct.pack("=HBBI", *line) for line in filter_program(NUMBERS[machine]))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    system_call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    system_call("prctl", SET_SECCOMP, FILTER, header, 0, 0)


def system_call(name: str, *arguments: int | bytes | None) -> None:
    """Call a function of the C library that gives 0, or raise what is wrong as an OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    wide = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    if function(*wide):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


Line = tuple[int, int, int, int]  # operation, lines to skip if true, if false, value


def filter_program(numbers: dict[str, int]) -> Iterable[Line]:
    """Return the filter of seccomp(2), as instructions of classic BPF."""
    yield (LOAD, 0, 0, ARCHITECTURE)
    yield (EQUAL, 1, 0, numbers["architecture"])
    yield (RETURN, 0, 0, KILL)
    yield (LOAD, 0, 0, NUMBER)
    yield (GREATER_OR_EQUAL, 0, 1, FOREIGN_ABI)
    yield (RETURN, 0, 0, KILL)
    refused = {name: n for name, n in numbers.items() if name not in HANDLED_APART}
    for number in (refused | EVERYWHERE).values():
        yield from _if_number(number, [(RETURN, 0, 0, REFUSE | errno.EPERM)])
    # its flags lie in memory, out of a filter's sight; libraries then fall back to clone
    yield from _if_number(numbers["clone3"], [(RETURN, 0, 0, REFUSE | errno.ENOSYS)])
    no_namespace = [
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, 1, NEW_USER_NAMESPACE),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    yield from _if_number(numbers["clone"], no_namespace)
    known_family = [
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 3, 0, UNIX),
        (EQUAL, 2, 0, INET),
        (EQUAL, 1, 0, INET6),
        (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    for name in ("socket", "socketpair"):
        yield from _if_number(numbers[name], known_family)
    yield (RETURN, 0, 0, ALLOW)


def _if_number(number: int, block: list[Line]) -> Iterable[Line]:
    yield (EQUAL, 0, len(block), number)
    yield from block
