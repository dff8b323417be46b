"""Runs a command in namespaces of its own, in a file system made for it, as an ordinary user.

    python -c ... namespaces '{"space": BYTES, "mounts": [[PATH, WHERE], ...], ...}' COMMAND...

What `bwrap` does, with the system calls of Python's own ctypes. It needs Linux 5.12 or later and
user namespaces that whoever starts it may make. Four processes: this one, outside; its child,
which makes the namespaces; the first process inside, whose end ends all; and the command.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from typing import Any

from asarm.sandbox.inside.confine import system_call

NEW_MOUNTS, NEW_CGROUP, NEW_NAMES, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000  # unshare(2)
NEW = NEW_MOUNTS | NEW_CGROUP | NEW_NAMES | NEW_IPC | NEW_USERS | NEW_PROCESSES | NEW_NETWORK
NO_SETUID, NO_DEVICES, NO_EXECUTION = 2, 4, 8  # mount(2)
BIND, RECURSIVE, PRIVATE, DETACH = 4096, 16384, 1 << 18, 2
MOUNT_SETATTR, HERE, WHOLE_TREE, READ_ONLY = 442, -100, 0x8000, 1  # one number on all machines
END_WITH_PARENT, NO_NEW_PRIVILEGES = 1, 38  # prctl(2)
USER = 1000  # the user's and the group's number inside
NOBODY = 65534  # outside, where the superuser starts this: its own processes cannot be limited
ROOT = "/proc"  # a folder that is everywhere and that holds no Python: the new root grows on it


def main(arguments: list[str]) -> None:
    plan, command = json.loads(arguments[0]), arguments[1:]
    end_with_parent(plan["starter"])
    made, mapped, outside = os.pipe(), os.pipe(), os.getpid()
    child = os.fork()
    if not child:
        os.close(mapped[1])
        _or_end(lambda: inside(plan, command, made[1], mapped[0], outside))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    os.close(made[1])
    if os.read(made[0], 1):  # otherwise the child has said on its error stream what is missing
        map_users(child)
        os.write(mapped[1], b"m")
    for descriptor in (0, 1):  # the ends of these pipes are the command's alone
        os.close(descriptor)
    sys.exit(exit_code(os.waitpid(child, 0)[1]))


def _or_end(work: Any) -> None:
    """Do some work in a child that never returns into the caller's code."""
    try:
        work()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(1)


def end_with_parent(parent: int) -> None:
    system_call("prctl", END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise ProcessLookupError("whoever started this sandbox has gone")


def spare_user() -> bool:
    """Return whether the command can be another user than the superuser who starts it."""
    with open("/proc/self/uid_map") as file:
        ranges = [list(map(int, line.split())) for line in file]
    return os.geteuid() == 0 and any(first <= NOBODY < first + n for first, _, n in ranges)


def map_users(child: int) -> None:
    """Name the child's user and group, as the kernel requires from outside."""
    spare = spare_user()
    for kind, number in (("uid", os.geteuid()), ("gid", os.getegid())):
        if kind == "gid" and not spare:
            write(f"/proc/{child}/setgroups", "deny")
        lines = f"0 0 1\n{USER} {NOBODY} 1\n" if spare else f"{USER} {number} 1\n"
        write(f"/proc/{child}/{kind}_map", lines)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def inside(plan: dict[str, Any], command: list[str], made: int, mapped: int, outside: int) -> None:
    """Make the namespaces and the file system, then start and await the first process in them."""
    spare = spare_user()
    end_with_parent(outside)
    system_call("unshare", NEW)
    os.write(made, b"m")
    os.close(made)
    if not os.read(mapped, 1):
        return  # the other process has said what is wrong
    system_call("sethostname", b"sandbox", 7)
    make_file_system(plan)
    begin = os.pipe()
    first = os.fork()
    if not first:
        os.close(begin[1])
        _or_end(lambda: first_process(plan, command, spare, begin[0]))
    # its end is awaited, and with it that of all the others, which the kernel kills before
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
    os.write(begin[1], b"b")
    os._exit(exit_code(os.waitpid(first, 0)[1]))


def make_file_system(plan: dict[str, Any]) -> None:
    """Make a root with nothing but the plan's mounts, read-only, and a /tmp of `space` bytes."""
    os.umask(0o022)
    system_call("mount", b"none", b"/", None, RECURSIVE | PRIVATE, None)
    mount_memory(ROOT, "size=1m,mode=755")
    for source, where in plan["mounts"]:
        mount_read_only(source, ROOT + where)
    for where, target in plan["links"]:
        os.symlink(target, ROOT + where)
    for device in plan["devices"]:
        mount_read_only(device, ROOT + device, NO_EXECUTION)
    os.mkdir(ROOT + "/tmp")
    mount_memory(ROOT + "/tmp", f"size={plan['space']},nr_inodes=1024,mode=1777")
    set_mount(ROOT, READ_ONLY, whole_tree=False)
    os.chdir(ROOT)
    system_call("pivot_root", b".", b".")  # the old root now lies over the new one
    system_call("umount2", b".", DETACH)
    os.chdir("/tmp")


def mount_memory(where: str, options: str) -> None:
    flags = NO_SETUID | NO_DEVICES | NO_EXECUTION
    system_call("mount", b"tmpfs", os.fsencode(where), b"tmpfs", flags, options.encode())


def mount_read_only(source: str, where: str, attributes: int = NO_DEVICES) -> None:
    folder = where if os.path.isdir(source) else os.path.dirname(where)
    os.makedirs(folder, exist_ok=True)
    if folder != where:
        write(where, "")  # something to mount a file on
    system_call("mount", os.fsencode(source), os.fsencode(where), None, BIND | RECURSIVE, None)
    set_mount(where, READ_ONLY | NO_SETUID | attributes, whole_tree=True)


def set_mount(where: str, attributes: int, *, whole_tree: bool) -> None:
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    tree = WHOLE_TREE if whole_tree else 0
    system_call("syscall", MOUNT_SETATTR, HERE, os.fsencode(where), tree, wanted, len(wanted))


def first_process(plan: dict[str, Any], command: list[str], spare: bool, begin: int) -> None:
    """Start the command without privileges and await it; the kernel ends what it leaves behind."""
    system_call("prctl", END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if not os.read(begin, 1):
        return  # the parent has gone before its end could be heard of
    main_process = os.fork()
    if not main_process:
        _or_end(lambda: become(command, plan["environment"], spare))
    while True:
        process, status = os.wait()
        if process == main_process:
            os._exit(exit_code(status))


def become(command: list[str], environment: dict[str, str], spare: bool) -> None:
    """Turn into the command. An ordinary user's capabilities end with that."""
    os.setsid()
    if spare:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    system_call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    os.execve(command[0], command, environment)


def exit_code(status: int) -> int:
    """Return the exit code as a shell has it: 128 and the signal's number after a signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
