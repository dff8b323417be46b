"""What keeps a program apart from the machine: bubblewrap, or namespaces of our own making."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from asarm.sandbox import namespaces
from asarm.sandbox.inside import probe

HERE = Path(__file__).resolve().parent
INSIDE = HERE / "inside"
SOURCES = "/checker"  # where the modules that run inside lie there
DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache"]
# no -I: it would ignore the hash seed, and a program's outcome is to be the same every time
PYTHON = ["-s", "-S", "-P", "-B", "-c"]
# runs a module in a folder without the packages above it, which it does not need
START = """
import sys
folder, module, *arguments = sys.argv[1:]
parts = module.split(".")
for end in range(1, len(parts)):
    package = sys.modules[".".join(parts[:end])] = type(sys)(parts[end - 1])
    package.__path__ = [folder]
__import__(module, fromlist=["main"]).main(arguments)
"""
EXECUTE = ("sandbox", "unsafe")


@dataclass(frozen=True)
class Isolation:
    """A way to start a module of `inside` so that it is apart from the machine."""

    name: str  # "bubblewrap", "namespaces" or "none"
    wrap: Callable[[list[str], int], list[str]]  # command, bytes of /tmp -> command to start

    @property
    def isolates(self) -> bool:
        return self.name != "none"

    def command(self, module: ModuleType, *arguments: str, space: int) -> list[str]:
        """Return a command that, with `environment()`, runs a module with at most `space` bytes."""
        folder = SOURCES if self.isolates else str(INSIDE)
        return self.wrap(start(folder, module, *arguments), space)


def start(folder: str, module: ModuleType, *arguments: str) -> list[str]:
    """Return the command that runs `main` of a module that lies in a folder."""
    return [interpreter(), *PYTHON, START, folder, module.__name__, *arguments]


def find_isolation(execute: str = "sandbox") -> Isolation:
    """Find the best isolation that this machine allows, tried out before it is trusted.

    That is bubblewrap where it is installed, else namespaces of our own; for the superuser the
    other way round, since bubblewrap keeps the user, and the superuser's processes have no limit.

    Args:
        execute: "sandbox", or "unsafe" for none: programs can then do all that the user can, only
            limited in time, memory and sizes.

    Raises:
        ValueError: nothing isolates here, or `execute` is something else.
    """
    if execute not in EXECUTE:
        raise ValueError(f"execute is {execute!r}; choose from {', '.join(EXECUTE)}")
    if execute == "unsafe":
        return Isolation("none", lambda command, space: command)
    missing = []
    for isolation in candidates():
        fault = find_fault(isolation)
        if fault is None:
            return isolation
        missing.append(f"{isolation.name}: {fault}")
    if not shutil.which("bwrap"):
        missing.append("bubblewrap: not installed")
    raise ValueError(
        f"programs cannot be isolated from this machine ({'; '.join(missing)}): install bubblewrap "
        "or allow user namespaces, or pass --execute unsafe to run them without a sandbox"
    )


def candidates() -> list[Isolation]:
    """Return what may isolate here, better first."""
    found = [Isolation("namespaces", own_namespaces)]
    if shutil.which("bwrap"):
        found.insert(1 if namespaces.spare_user() else 0, Isolation("bubblewrap", bubblewrap))
    return found


def environment() -> dict[str, str]:
    """Return all that a program's process knows of its surroundings."""
    # without its library path, a Python that was built against libraries elsewhere does not start
    kept = {name: os.environ[name] for name in ["LD_LIBRARY_PATH"] if os.environ.get(name)}
    common = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return common | kept


def interpreter() -> str:
    """Return this Python itself, outside of any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def mounts() -> list[tuple[str, str]]:
    """Return what a program may read, and where it finds it: the system, Python, `inside`."""
    prefix = Path(interpreter()).parents[1]
    python = [prefix / "bin", prefix / "lib", prefix / "lib64", interpreter()]
    standard_library = os.path.realpath(sysconfig.get_path("stdlib"))
    wanted = map(str, [*SYSTEM, *python, standard_library, *libraries()])
    paths = [path for path in wanted if os.path.exists(path)]
    kept: list[str] = []
    for path in paths:
        if not os.path.islink(path) and not any(Path(path).is_relative_to(k) for k in kept):
            kept.append(path)
    return [*((path, path) for path in kept), (str(INSIDE), SOURCES)]


def links() -> list[tuple[str, str]]:
    """Return links of the root folder and their targets, as in a system with /bin in /usr."""
    return [(path, os.readlink(path)) for path in SYSTEM if os.path.islink(path)]


def libraries() -> list[str]:
    """Return folders of the shared libraries that Python loads, wherever they are."""
    code = "import ctypes, decimal, hashlib, json; print(open('/proc/self/maps').read())"
    command = [interpreter(), *PYTHON, code]
    listing = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    paths = {line.split(maxsplit=5)[5] for line in listing.stdout.splitlines() if "/" in line}
    return sorted({os.path.dirname(path) for path in paths if ".so" in os.path.basename(path)})


def own_namespaces(command: list[str], space: int) -> list[str]:
    plan = {
        "space": space,
        "mounts": mounts(),
        "links": links(),
        "devices": DEVICES,
        "environment": environment(),
        "starter": os.getpid(),
    }
    return [*start(str(HERE), namespaces, json.dumps(plan)), *command]


def bubblewrap(command: list[str], space: int) -> list[str]:
    """Isolate by bwrap(1), with exactly the plan of `own_namespaces`."""
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    user = str(namespaces.USER)
    options += ["--uid", user, "--gid", user, "--hostname", "sandbox"]
    for source, where in mounts():
        options += ["--ro-bind", source, where]
    for where, target in links():
        options += ["--symlink", target, where]
    for device in DEVICES:
        options += ["--dev-bind", device, device]
    options += ["--size", str(space), "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [shutil.which("bwrap") or "bwrap", *options, "--remount-ro", "/", "--", *command]


def find_fault(isolation: Isolation) -> str | None:
    """Say what is wrong with an isolation, in a few words, by trying to break out of it."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        places = [folder, str(Path.home()), str(HERE)]
        attempt = {"port": server.getsockname()[1], "secret": str(secret), "places": places}
        command = isolation.command(probe, json.dumps(attempt), space=1 << 20)
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"ends with {done.returncode}"])[-1]
    breaches: list[str] = json.loads(done.stdout)
    return ", ".join(breaches) or None
