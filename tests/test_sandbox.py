"""Programs run apart from the machine and from their tests; no verdict can be forged."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from itertools import islice
from pathlib import Path

import hostile
import pytest
from published import published

from asarm.sandbox import execution as sandbox
from asarm.sandbox import isolation as isolating
from asarm.sandbox import namespaces
from asarm.sandbox.execution import Limits, Outcome, Program, run_programs
from asarm.sandbox.inside.wire import Broken, Channel
from asarm.sandbox.isolation import (
    Isolation,
    candidates,
    find_fault,
    find_isolation,
    interpreter,
)

ROOT = Path(__file__).parents[1]
LIMITS = Limits(seconds=0.7, cpu_seconds=5, memory_bytes=256 << 20, output_bytes=1 << 20)
UNSAFE = find_isolation("unsafe")


@cache
def usable():
    """The isolations that work here by name, and what is wrong with the others."""
    faults = {isolation: find_fault(isolation) for isolation in candidates()}
    works = {isolation.name: isolation for isolation, fault in faults.items() if fault is None}
    return works, {isolation.name: fault for isolation, fault in faults.items() if fault}


@pytest.fixture(params=["bubblewrap", "namespaces"])
def isolation(request):
    works, faults = usable()
    if request.param not in works:
        reason = faults.get(request.param, "it is not installed")
        pytest.skip(f"{request.param} does not isolate here: {reason}")
    return works[request.param]


@pytest.fixture
def best():
    """The best isolation here, or none: for what does not depend on it."""
    return next(iter(usable()[0].values()), UNSAFE)


def outcomes(sources, isolation, *, limits=LIMITS, test=hostile.TEST, workers=4):
    programs = [Program(source, test, "f") for source in sources.values()]
    found = run_programs(programs, isolation=isolation, limits=limits, workers=workers)
    names = list(sources)
    return {names[place]: outcome for place, outcome in found}


def outcome_of(source, isolation, *, test=hostile.TEST, **limits):
    return outcomes({"": source}, isolation, test=test, limits=Limits(**limits))[""]


@pytest.mark.slow
def test_no_forgery_passes(best):
    found = outcomes(hostile.FORGERIES, best)
    assert found.keys() == hostile.FORGERIES.keys()
    assert not [name for name, outcome in found.items() if outcome.passed]
    results = {name: outcome.result for name, outcome in found.items()}
    assert results.items() >= hostile.RESULTS.items()


def test_all_ways_to_end_are_told_apart(isolation):
    found = outcomes({name: hostile.FORGERIES[name] for name in hostile.RESULTS}, isolation)
    assert {name: outcome.result for name, outcome in found.items()} == hostile.RESULTS


@pytest.mark.slow
def test_no_harm_is_done(isolation, tmp_path, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "secret")
    canary, name = tmp_path / "canary", f"harm-{os.getpid()}"
    canary.write_text("secret")
    checkout = ROOT / "asarm"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        places = {"home": str(Path.home()), "folder": str(tmp_path), "checkout": str(checkout)}
        ports = {"port": server.getsockname()[1], "open_port": free.getsockname()[1]}
        programs = hostile.harms(canary=str(canary), name=name, **places, **ports)
        found = outcomes(programs, isolation)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert found.keys() == programs.keys()
    assert not [name for name, outcome in found.items() if outcome.passed]
    assert canary.read_text() == "secret"
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    everywhere = [Path.home(), checkout, Path("/"), isolating.INSIDE, Path(os.__file__).parent]
    assert not [place for place in everywhere if (place / name).exists()]


def command_lines():
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue


def alive(mark):
    """How many processes have a mark on their command line, once those that are dying are gone."""
    for _ in range(40):
        count = sum(mark.encode() in line for line in command_lines())
        if count == 0:
            break
        time.sleep(0.05)
    return count


@pytest.mark.slow_but_one
def test_what_a_program_started_ends_with_it(isolation):
    mark = f"outlives-its-sandbox-{os.getpid()}"
    programs = hostile.daemons(mark)
    found = outcomes({n: s + "\ndef f(x): return 9" for n, s in programs.items()}, isolation)
    assert all(outcome.passed for outcome in found.values())  # they did start
    assert alive(mark) == 0
    found = outcomes({n: s + "\nwhile True: pass" for n, s in programs.items()}, isolation)
    assert {outcome.result for outcome in found.values()} == {"timed out"}
    assert alive(mark) == 0


HOST = """
import sys
from asarm.sandbox.isolation import candidates
from asarm.sandbox.execution import Limits, Program, run_programs
isolation = next(found for found in candidates() if found.name == sys.argv[1])
endless = [Program(sys.argv[2], "", "f")] * 2
list(run_programs(endless, isolation=isolation, limits=Limits(1000, 1000), workers=2))
"""


def test_sandboxes_end_with_a_host_that_is_killed(isolation):
    mark = f"outlives-its-host-{os.getpid()}"
    source = "".join(hostile.daemons(mark).values()) + "\nwhile True: pass"
    host = subprocess.Popen([sys.executable, "-c", HOST, isolation.name, source], cwd=ROOT)
    while mark.encode() not in b"".join(command_lines()).replace(source.encode(), b""):
        assert host.poll() is None
        time.sleep(0.05)
    host.kill()
    host.wait()
    assert alive(mark) == 0


def test_namespaces_isolate_wherever_they_can_be_made():
    attempt = subprocess.run(["unshare", "-Urmn", "true"], capture_output=True)
    if attempt.returncode != 0:
        pytest.skip(f"no user namespaces here: {attempt.stderr.decode().strip()}")
    assert "namespaces" in usable()[0], usable()[1]
    assert find_isolation().name in usable()[0]


def test_bombs(isolation):
    if isolation.name == "bubblewrap" and namespaces.spare_user():
        pytest.skip("bubblewrap cannot limit the superuser's processes")
    found = outcomes(hostile.BOMBS, isolation, workers=2)
    assert not [name for name, outcome in found.items() if outcome.passed]
    assert found["threads without end"].result == "failed: RuntimeError"
    assert found["processes without end"].result == "failed: BlockingIOError"


def test_one_program_leaves_nothing_for_the_next(isolation):
    writes = "open('/tmp/left', 'w').close()\ndef f(x): return 9"
    reads = "def f(x): return open('/tmp/left') and 9"
    found = outcomes({"writes": writes, "reads": reads}, isolation, workers=1)
    assert found == {
        "writes": Outcome(True, "passed"),
        "reads": Outcome(False, "failed: FileNotFoundError"),
    }


@pytest.mark.slow
def test_limits_are_named(best):
    spin = "def f(x):\n    while True: pass"
    assert outcome_of(spin, best, cpu_seconds=1) == Outcome(False, "killed: cpu time")
    assert outcome_of(spin, best, seconds=0.2) == Outcome(False, "timed out")
    large = "def f(x): return len(bytearray(1 << 30)) and 9"
    assert outcome_of(large, best).result == "failed: MemoryError"
    long = "def f(x): return 'x' * 1000"
    assert "longer than 500" in outcome_of(long, best, output_bytes=500).result


# The verdict is that of running both texts in one interpreter, wherever nobody cheats.
SQUARE = "def check(candidate):\n    assert candidate(3) == 9\n"
HONEST = [
    ("def f(x): return x * x", SQUARE),
    ("def f(x): return x", SQUARE),
    ("def f(x): return 9.0", SQUARE),
    ("def f(x): return None", SQUARE),
    ("def f(x): return 1 / 0", SQUARE),
    ("def f(): return 9", SQUARE),
    ("def g(x): return 9", SQUARE),
    ("def f(x) return 9", SQUARE),
    ("import nothing_of_this_name\ndef f(x): return 9", SQUARE),
    ("from typing import *\nimport math, re, random, hashlib\ndef f(x): return 9", SQUARE),
    ("import numbers\nclass E(ValueError): pass\ndef f(x): raise E('no')", SQUARE),
    ("if __name__ == '__main__': raise ValueError\ndef f(x): return 9", SQUARE),
    ("f = lambda x, y=0: 9\nprint('debug')", SQUARE),
    ("class f:\n    def __init__(self, x): pass", SQUARE),
    ("def f(x): return [y * 3 for y in range(x, x + 1)][0]", SQUARE),
    ("def f(x): return (y for y in [1, 2])", "def check(c): assert list(c(1)) == [1, 2]"),
    ("def f(x): return {1: 2}.keys()", "def check(c): assert sorted(c(1)) == [1]"),
    ("def f(x): return lambda y: x + y", "def check(c): assert c(1)(2) == 3"),
    ("def f(x): x.sort()", "def check(c):\n    x = [2, 1]\n    c(x)\n    assert x == [1, 2]"),
    ("def f(x): x[1] = 2", "def check(c):\n    x = {0: 1}\n    c(x)\n    assert x == {0: 1, 1: 2}"),
    ("def f(x): x.add(2)", "def check(c):\n    x = {1}\n    c(x)\n    assert x == {1, 2}"),
    ("def f(**named): return named", "def check(c): assert c(a=1, b='2') == dict(a=1, b='2')"),
    ("def g(x): return x + 1\ndef f(x): return x - 1", "def check(c): assert c(g(5)) == 5"),
    ("import math\ndef f(x): return x", "def check(c): assert math.fabs(c(-2)) == 2"),
    ("def f(x): raise KeyError(x)", "def check(c):\n    try: c(1)\n    except LookupError: pass"),
    ("def f(x): raise KeyError(x)", "def check(c):\n    try: c(1)\n    except ValueError: pass"),
    ("def f(x): return x is True", "def check(c): assert c(True) is True and c(1) is False"),
    ("def f(x): return (1, [2, {3}])", "def check(c): assert c(0) == (1, [2, {3}])"),
    ("def f(x): return [1, 2]", "def check(c): assert c(0) == (1, 2)"),
    ("def f(x): return 10 ** 5000", "def check(c): assert c(0) == 10 ** 5000"),
    ("def f(x): return float('nan')", "def check(c): assert c(0) != c(0)"),
    ("from collections import Counter as f", "def check(c): assert c('aab') == {'a': 2, 'b': 1}"),
    ("def f(x): return object()", "def check(c): assert c(0)"),
    ("def f(x): return 9", "def check(c): assert undefined_name"),
    ("def f(x): return 9", "x = 1"),
    ("from builtins import max as f", "def check(c): assert c([1, 2]) == f(1, 2)"),
    ("def f(x): return 9", "def check(c): return c(1"),
]
ORACLE = """
import json, sys
def passes(text):
    try:
        exec(text, {})
    except BaseException:
        return False
    return True
verdicts = [passes(text) for text in json.load(sys.stdin)]
print(json.dumps(verdicts), file=sys.stderr)
"""


def verdicts_of_one_interpreter(programs):
    """Whether each program passes where its text and the test's are run as one."""
    texts = [f"{source}\n{test}\ncheck(f)" for source, test, _ in programs]
    command = [interpreter(), "-S", "-c", ORACLE]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True)
    return json.loads(done.stderr)


@pytest.mark.slow
def test_honest_verdicts_are_those_of_one_interpreter(best):
    programs = [Program(source, test, "f") for source, test in HONEST]
    found = dict(run_programs(programs, isolation=best))
    expected = verdicts_of_one_interpreter(programs)
    assert [found[place].passed for place in range(len(HONEST))] == expected
    assert {True, False} == set(expected)


def test_the_function_may_be_named_like_one_of_pythons(best):
    programs = [Program(f"def max(x): return {number}", SQUARE, "max") for number in (9, 8)]
    found = dict(run_programs(programs, isolation=best))
    assert [found[place].passed for place in (0, 1)] == [True, False]


@pytest.mark.slow
def test_reference_solutions_pass_and_empty_ones_do_not(best):
    with gzip.open(
        published("HumanEval-SingleLineInfilling.jsonl.gz"), "rt", encoding="utf-8"
    ) as file:
        tasks = [json.loads(line) for line in islice(file, 0, None, 100)]
    programs = [
        Program(task["prompt"] + middle + task["suffix"], task["test"], task["entry_point"])
        for task in tasks
        for middle in (task["canonical_solution"], "")
    ]
    found = dict(run_programs(programs, isolation=best))
    passed = [found[place].passed for place in range(len(programs))]
    assert all(passed[::2])
    assert sum(passed[1::2]) <= 2


def test_without_a_sandbox_it_runs_in_a_folder_of_its_own_without_the_environment(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "secret")
    source = (
        "import os\nopen('mine', 'w').close()\n"
        "def f(x): return [os.getcwd(), os.environ['HOME'], 'API_TOKEN' in os.environ]"
    )
    test = "def check(c):\n    a, b, secret = c(1)\n    assert a == b and not secret, a"
    assert outcome_of(source, UNSAFE, test=test).passed
    assert outcome_of("import os\nos._exit(0)", UNSAFE).result == "failed: exited with 0"
    assert outcome_of("raise SystemExit(0)", UNSAFE).result == "failed: SystemExit"


def test_a_run_that_nobody_wants_any_more_ends_at_once(best):
    endless = Program("while True: pass", SQUARE, "f")
    quick = Program("", SQUARE, "f")
    limits = Limits(seconds=1000, cpu_seconds=1000)
    threads = threading.active_count()
    run = run_programs([quick, *[endless] * 9], isolation=best, limits=limits, workers=2)
    assert next(run) == (0, Outcome(False, "failed: NameError"))
    run.close()  # waits for the pool
    assert threading.active_count() == threads


def test_a_sandbox_that_does_not_start_is_the_machines_fault(monkeypatch):
    def broken(command, space):
        return ["/bin/sh", "-c", "echo nothing works >&2; exit 3"]

    found = outcome_of("def f(x): return 9", Isolation("broken", broken))
    assert not found.passed and found.is_doubtful
    assert found.result.startswith("no sandbox: it does not start; nothing works")
    absent = outcome_of("", Isolation("absent", lambda command, space: ["/no/such/program"]))
    assert absent == Outcome(False, "no sandbox: No such file or directory")
    monkeypatch.setattr(sandbox, "START_SECONDS", 0.2)
    slow = outcome_of("", Isolation("slow", lambda command, space: ["/bin/sleep", "60"]))
    assert slow.result.startswith("no sandbox: it does not start") and slow.is_doubtful


def test_a_test_that_cannot_be_run_fails_by_that_name(best):
    test = "def check(candidate): assert candidate(lambda: 9) == 9"
    found = outcome_of("def f(x): return x()", best, test=test)
    assert found == Outcome(False, "cannot be run: a test gives the program a function")
    assert not found.is_doubtful


def test_refuses_where_nothing_isolates(monkeypatch):
    def nothing(command, space):
        return [str(isolating.INSIDE) if a == isolating.SOURCES else a for a in command]

    monkeypatch.setattr(isolating, "candidates", lambda: [Isolation("open", nothing)])
    with pytest.raises(ValueError) as refused:
        find_isolation()
    message = str(refused.value)
    assert "reaches the network, reads files of the user's" in message
    assert f"writes to {Path.home()}" in message and "--execute unsafe" in message
    assert "\n" not in message


def test_refuses_where_nothing_starts(monkeypatch):
    monkeypatch.setattr(isolating, "own_namespaces", lambda command, space: ["/bin/false"])
    monkeypatch.setattr(isolating.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="namespaces: ends with 1; bubblewrap: not installed"):
        find_isolation()


def test_prefers_bubblewrap_to_namespaces_for_ordinary_users(monkeypatch):
    monkeypatch.setattr(isolating.shutil, "which", lambda name: f"/usr/bin/{name}")
    for superuser, first in ((False, "bubblewrap"), (True, "namespaces")):
        monkeypatch.setattr(isolating.namespaces, "spare_user", lambda s=superuser: s)
        assert [isolation.name for isolation in candidates()][0] == first


def test_execute_is_one_of_two():
    with pytest.raises(ValueError, match="execute is 'safe'; choose from sandbox, unsafe"):
        find_isolation("safe")


def test_channel_stays_broken():
    incoming, outgoing = os.pipe()
    channel = Channel(incoming, outgoing, max_bytes=100)
    channel.send({"a": [1, "é"]})
    assert channel.receive() == {"a": [1, "é"]}
    os.write(outgoing, b"\0\0\0\2{]")
    with pytest.raises(Broken, match="nonsense: JSONDecodeError"):
        channel.receive()
    channel.send("x" * 99)
    with pytest.raises(Broken, match="101 bytes is longer than 100"):
        channel.receive()
    os.close(outgoing)
    with pytest.raises(Broken):
        channel.receive()
    assert channel.broken
    os.close(incoming)
