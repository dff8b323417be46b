"""Programs that try to pass without solving their task, to do harm, or to stall a run.

The task: `f(3)` is 9. No forgery solves it; a harm returns 9 where it has succeeded.
"""

import sys

TEST = "def check(candidate):\n    assert candidate(3) == 9\n    assert candidate(3) == 9\n"

WRITE_EVERYWHERE = """
import json, os, struct
def shout(*messages):
    for message in messages:
        text = json.dumps(message).encode()
        for fd in range(64):
            for content in (text + b"\\n", struct.pack("!I", len(text)) + text):
                try: os.write(fd, content)
                except OSError: pass
"""
ALWAYS_EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(9)
def f(x): return Equal({value})
"""
FORGERIES = {
    "endless loop": "while True: pass",
    "endless loop in the function": "def f(x):\n    while True: pass",
    "endless loop that swallows": (
        "def f(x):\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass"
    ),
    "sleep that ignores signals": (
        "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: time.sleep(9)"
    ),
    "endless expression of one operation": "import re\nre.match('(a*)*b', 'a' * 99)",
    "exit": "import sys\nsys.exit(0)",
    "exit in the function": "def f(x): raise SystemExit(0)",
    "interrupt": "def f(x): raise KeyboardInterrupt",
    "end of a generator": "def f(x): raise StopIteration(9)",
    "hard exit": "import os\nprint('passed', flush=True)\nos._exit(0)",
    "hard exit in the function": "import os\ndef f(x):\n    print('passed')\n    os._exit(0)",
    "verdicts on all descriptors": WRITE_EVERYWHERE
    + "shout({'started': True}, {'result': 'passed', 'token': ''}, {'result': 'passed'})",
    "answers on all descriptors": WRITE_EVERYWHERE
    + "shout(*[['value', True, []]] * 20)\ndef f(x): return True",
    "nonsense on all descriptors": WRITE_EVERYWHERE
    + "def f(x):\n    shout({}, [], 0, ['value'], ['value', ['remote', -1], []], ['error', 1, 2])",
    "errors with the judge's names": (
        "class Broken(BaseException): pass\nclass CannotCross(Broken): pass\n"
        "def f(x): raise CannotCross('passed')"
    ),
    "error without a text": (
        "class E(Exception):\n    def __str__(self): raise self\ndef f(x): raise E"
    ),
    "atexit": WRITE_EVERYWHERE
    + "import atexit\natexit.register(shout, {'result': 'passed'})\nraise SystemExit(0)",
    "excepthook": WRITE_EVERYWHERE
    + "import sys\nsys.excepthook = lambda *_: shout({'result': 'passed'})\nraise ValueError",
    "equal to everything": ALWAYS_EQUAL.format(base="", value=""),
    "number equal to everything": ALWAYS_EQUAL.format(base="(int)", value="7"),
    "list equal to everything": ALWAYS_EQUAL.format(base="(list)", value=""),
    "exit when compared": (
        "class Exits:\n    def __eq__(self, other): raise SystemExit(0)\ndef f(x): return Exits()"
    ),
    "check redefined": (
        "import builtins, threading\ndef pass_(candidate): pass\ndef f(x): pass\n"
        "def work():\n    while True:\n        globals()['check'] = builtins.check = pass_\n"
        "threading.Thread(target=work, daemon=True).start()\nwork_done = f(3)"
    ),
    "builtins replaced": (
        "import builtins\nclass Quiet(BaseException): pass\n"
        "for name in ('AssertionError', 'Exception', 'BaseException'):\n"
        "    setattr(builtins, name, Quiet)\n"
        "builtins.compile = lambda *a, **k: (lambda: None).__code__\n"
        "builtins.exec = lambda *a, **k: None\nabs = len = all = any = lambda *a: 9\n"
        "def f(x): pass"
    ),
    "assertions compiled away": (
        "import sys\nold = compile\n"
        "def patched(*a, **k): return old(*a, **(k | {'optimize': 2}))\n"
        "import builtins\nbuiltins.compile = patched\nsys.flags = None\ndef f(x): pass"
    ),
    "frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for names in (frame.f_globals, frame.f_locals):\n"
        "            for name in list(names):\n"
        "                if name in ('check', 'candidate', 'judge', 'answer'):\n"
        "                    names[name] = lambda *a: None\n"
        "        frame = frame.f_back"
    ),
    "code of all functions": (
        "import gc, types\ndef nothing(*a, **k): pass\ndef f(x):\n"
        "    for o in gc.get_objects():\n"
        "        if isinstance(o, types.FunctionType) and o is not f:\n"
        "            o.__code__ = nothing.__code__"
    ),
    "all that looks like a token": WRITE_EVERYWHERE
    + (
        "import gc, re\ndef f(x):\n    text = repr(gc.get_objects())\n"
        "    for token in set(re.findall('[0-9a-f]{32}', text)):\n"
        "        shout({'result': 'passed', 'token': token})"
    ),
    "modules replaced": (
        "import sys, types\nfor name in list(sys.modules):\n"
        "    if name not in ('sys', 'builtins'): sys.modules[name] = types.ModuleType(name)\n"
        "def f(x): pass"
    ),
    "channel's class patched": (
        "import gc\nfor o in gc.get_objects():\n"
        "    if isinstance(o, type) and o.__name__ == 'Channel':\n"
        "        o.send = lambda self, message: None\ndef f(x): pass"
    ),
    "trace": (
        "import sys\ndef trace(frame, event, argument):\n"
        "    frame.f_globals['check'] = lambda c: None\n    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(trace)\ndef f(x): pass"
    ),
    "expected value in memory": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        code = getattr(o, '__code__', None)\n"
        "        if code and code.co_name == 'check': return 9\n    return 0"
    ),
    "segfault": "import ctypes\nctypes.string_at(0)",
    "segfault in the function": "import faulthandler\ndef f(x): faulthandler._sigsegv()",
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]\nf(3)"),
    "deep answer": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "deep answer by hand": WRITE_EVERYWHERE
    + (
        "def f(x):\n    text = b'[' * 10**6\n    for fd in range(3, 64):\n"
        "        try: os.write(fd, struct.pack('!I', len(text)) + text)\n"
        "        except OSError: pass"
    ),
    "answer in itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "long answer": "def f(x): return 'x' * 2 * 10**6",
    "endless answer": "import itertools\ndef f(x): return itertools.count()",
    "ten gigabytes": "def f(x): return len(bytearray(10 * 2**30)) and 9",
    "memory bit by bit": "a = []\nwhile True: a.append(bytearray(2**20))",
    "endless printing": "while True: print('passed' * 1000)",
    "standard input": "def f(x): return 9 if input() else 0",
    "another program": (
        "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(9)'])"
    ),
    "descriptors closed": "import os, time\nos.closerange(0, 64)\ntime.sleep(99)",
    "kill its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(1, 9)",
    "kill everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill its group": "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "stop everybody": "import os, signal\nos.kill(-1, signal.SIGSTOP)\nos.kill(0, signal.SIGSTOP)",
    "null bytes": "def f(x): return 9\0",
    "lone surrogate": "def f(x): return 9 # \ud800",
    "string that swallows the test": "def f(x): return 9\nx = '''",
    "line that goes on": "def f(x): return 9\nif False: \\",
    "no function": "",
    "value in place of the function": "f = 9",
}
RESULTS = {
    "endless loop": "timed out",
    "endless loop that swallows": "timed out",
    "exit": "failed: SystemExit",
    "hard exit": "failed: exited with 0",
    "check redefined": "failed: AssertionError",
    "equal to everything": "failed: AssertionError",
    "exit when compared": "failed: AssertionError",
    "segfault": "killed: SIGSEGV",
    "ten gigabytes": "failed: MemoryError",
    "kill its group": "killed: SIGKILL",
    "null bytes": "failed: SyntaxError" if sys.version_info >= (3, 11, 4) else "failed: ValueError",
    "errors with the judge's names": "failed: CannotCross",
    "no function": "failed: NameError",
}
# these need the limit of processes, which bubblewrap cannot give to the superuser
BOMBS = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "fork bomb that hides": (
        "import os\nwhile True:\n    try:\n        if not os.fork(): os.setsid()\n"
        "    except OSError: pass"
    ),
    "threads without end": (
        "import threading, time\ndef f(x):\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(99,)).start()"
    ),
    "processes without end": (
        "import os, time\ndef f(x):\n    for _ in range(200):\n"
        "        if not os.fork(): time.sleep(99)\n    return 9"
    ),
}

_HARMS = {
    "write to home": "open(os.path.join({home!r}, {name!r}), 'w').close()",
    "write to /tmp": "open(os.path.join({folder!r}, {name!r}), 'w').close()",
    "write to the checkout": "open(os.path.join({checkout!r}, {name!r}), 'w').close()",
    "write to the checker": "open('/checker/' + {name!r}, 'w').close()",
    "write to Python": "open(os.path.join(os.path.dirname(os.__file__), {name!r}), 'w').close()",
    "write to the root": "os.mkdir('/' + {name!r})",
    "overwrite": "open({canary!r}, 'w').close()",
    "read": "open({canary!r}).read()",
    "delete": "os.unlink({canary!r})",
    "delete all": (
        "import shutil\nshutil.rmtree({folder!r})\nshutil.rmtree('/', ignore_errors=True)"
    ),
    "symbolic link out": "os.symlink({canary!r}, 'link')\nopen('link', 'a').close()\n"
    "open('link').read() or 1 / 0",
    "link out": "os.link({canary!r}, 'link')",
    "list home": "os.listdir({home!r})[0]\nopen(os.path.join({home!r}, '.bashrc'))",
    "passwords": "open('/etc/shadow').read()",
    "environment": "os.environ['API_TOKEN']",
    "environment of others": (
        "texts = [open(f'/proc/{{n}}/environ').read() for n in range(1, 400)\n"
        "    if os.access(f'/proc/{{n}}/environ', os.R_OK)]\n"
        "[t for t in texts if 'API_TOKEN' in t][0]"
    ),
    "memory of others": "open(f'/proc/{{os.getppid()}}/mem', 'r+b')",
    "command lines": "open('/proc/1/cmdline').read()",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "look up a name": "import socket\nsocket.getaddrinfo('example.org', 80)[0]",
    "send a packet": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('192.0.2.1', 9))"
    ),
    "accept": (
        "import socket\ns = socket.create_server(('', {open_port}))\ns.settimeout(0.5)\ns.accept()"
    ),
    "talk to the host of a virtual machine": (
        "import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)"
    ),
    "become the superuser": "os.setuid(0)",
    "new user namespace": "libc.unshare(0x10000000) and 1 / 0",
    "memory that outlives": "libc.shmget(0, 4096, 0o1600) < 0 and 1 / 0",
    "trace its parent": "libc.ptrace(16, os.getppid(), 0, 0) and 1 / 0",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) and 1 / 0",
    "higher limits": (
        "import resource\nlimit = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit[0], limit[1] + 1))"
    ),
    "large file": "open('large', 'wb').write(b'x' * (20 << 20))",
    "many files": "for n in range(40): open(f'file{{n}}', 'wb').write(b'x' * (1 << 20))",
    "many open files": "files = [open('/dev/null') for _ in range(500)]",
    "more devices": "set(os.listdir('/dev')) - {{'null', 'zero', 'random', 'urandom'}} or 1 / 0",
    "make a device": "import stat\nos.mknod('/tmp/disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))",
    "run a file of its own": (
        "open('run', 'w').write('#!/bin/sh\\n')\nos.chmod('run', 0o755)\nos.execv('./run', ['run'])"
    ),
}
_HARM = "import ctypes, os\nlibc = ctypes.CDLL(None)\ndef f(x):\n{}\n    return 9"


def harms(**places: object) -> dict[str, str]:
    """Programs that do harm in the given places, or try to."""
    texts = {name: text.format(**places) for name, text in _HARMS.items()}
    return {
        name: _HARM.format("\n".join("    " + line for line in text.split("\n")))
        for name, text in texts.items()
    }


_DAEMON = """
import os, signal, sys
def daemon():
    command = "import time; time.sleep(120)"
    os.execv(sys.executable, [sys.executable, "-S", "-c", command, {mark!r}])
if not os.fork():
    {detach}
    daemon()
"""
_DETACH = {
    "daemon": "pass",
    "daemon of its own session": "os.setsid()",
    "daemon without a parent": "os.setsid(); os.fork() and os._exit(0)",
    "daemon that ignores signals": "os.setsid(); signal.signal(15, signal.SIG_IGN)",
}


def daemons(mark: str) -> dict[str, str]:
    """Programs that leave a process behind, with a mark on its command line."""
    return {name: _DAEMON.format(mark=mark, detach=detach) for name, detach in _DETACH.items()}
