"""What crosses between a program and its tests: values, errors, and changes of what was given."""

import json
import math
import string
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import honest
import pytest
from honest import pairs
from hypothesis import given
from hypothesis import strategies as st
from test_sandbox import UNSAFE, outcomes, usable, verdicts_of_one_interpreter

from asarm.sandbox.execution import Limits, Outcome, run_programs
from asarm.sandbox.execution import Program as Text
from asarm.sandbox.inside.guest import Guest
from asarm.sandbox.inside.judge import CannotCross, Program
from asarm.sandbox.inside.values import Decoder, Encoder


@pytest.fixture
def best():
    return next(iter(usable()[0].values()), UNSAFE)


def message(value, side=None):
    encoder = Encoder(side or Guest())
    return json.loads(json.dumps([encoder.encode(value), encoder.contents()]))


def read(message, side=None, given=()):
    value, contents = message
    return Decoder(side or Program(None), contents, given).decode(value)


def crossed(value):
    """A value of the program's as it arrives at its tests."""
    return read(message(value))


zones = (
    st.none()
    | st.just(UTC)
    | st.timedeltas(-timedelta(hours=23), timedelta(hours=23)).map(timezone)
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(st.characters())  # lone surrogates as well
    | st.binary()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals().filter(lambda number: not number.is_snan())  # has no hash
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.uuids()
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner), max_leaves=4)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(deque)
        | st.dictionaries(st.integers(), inner).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers()).map(Counter)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(values)
def test_plain_values_cross_as_they_are(value):
    assert repr(crossed(value)) == repr(value)  # types, signs of zero and nan included


@given(st.sets(st.tuples(st.text(), st.integers())))
def test_sets_cross_as_they_are(value):
    assert crossed(value) == value and type(crossed(value)) is set
    assert crossed(frozenset(value)) == value and type(crossed(frozenset(value))) is frozenset


Point = namedtuple("Point", "x y")


def test_classes_of_the_standard_library_arrive_as_themselves():
    for value in (
        *(Counter("aab"), OrderedDict(a=1), deque([1, 2], maxlen=2), range(1, 9, 2)),
        *(bytearray(b"1"), Fraction(1, 3), date(2024, 2, 29), time(1, 2, fold=1)),
        *(datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")), timezone(timedelta(hours=1), "X")),
        *(UUID(int=7), defaultdict(list, a=[1]), int, dict, ValueError, type(None)),
    ):
        assert crossed(value) == value and type(crossed(value)) is type(value)
    assert crossed(deque([1, 2], maxlen=2)).maxlen == 2
    assert crossed(time(1, 2, fold=1)).fold == 1
    assert crossed(defaultdict(list)).default_factory is list
    assert crossed(UTC) is UTC and math.isnan(crossed(math.nan))


def test_named_tuples_keep_their_names_and_their_class():
    guest, program = Guest(), Program(None)
    first, second, kind = (
        read(message(v, guest), program) for v in (Point(1, 2), Point(3, [4]), Point)
    )
    assert first == (1, 2) and (first.x, second.y) == (1, [4])
    assert type(first) is type(second) is kind and kind.__name__ == "Point"
    back = read(message([first, kind], program), guest)
    assert type(back[0]) is Point and back[1] is Point


@pytest.mark.slow
def test_what_is_one_object_here_is_one_object_there():
    inner = [1]
    value = {"a": inner, "b": (inner, {2: inner})}
    value["self"] = value
    found = crossed(value)
    assert found["a"] is found["b"][0] is found["b"][1][2] and found["self"] is found
    deep = deepest = []
    for _ in range(100_000):
        deepest.append([])
        deepest = deepest[0]
    count, found = 0, crossed(deep)
    while found:
        count, found = count + 1, found[0]
    assert count == 100_000


def test_an_answer_changes_what_was_given_in_place_and_leaves_the_rest():
    guest, program = Guest(), Program(None)
    inner, kept, nan = [1], [5], [math.nan]
    arguments = ({"in": inner, "kept": kept}, Counter("a"), deque([1], maxlen=3), nan)
    asked = Encoder(program)
    value = asked.encode(arguments)
    decoder = Decoder(guest, asked.contents())
    table, counts, queue, _ = decoder.decode(value)
    table["in"].append(table["kept"])
    counts["b"] += 2
    queue.extend([2, 3, 4])
    answer = Encoder(guest, decoder.containers)
    outcome = answer.encode(table["kept"])
    found = Decoder(program, json.loads(json.dumps(answer.contents())), asked.containers)
    assert found.decode(outcome) is kept
    assert inner == [1, kept] and inner[1] is kept and arguments[0]["in"] is inner
    assert arguments[1] == Counter(a=1, b=2) and arguments[2] == deque([2, 3, 4])


@pytest.mark.parametrize(
    "nonsense",
    [
        *([{}, []], [[], []], [["list"], []], [["int", "x"], []], [["no", 1], []]),
        *([["@", 0], []], [["@", 5], [["list", [None, []]]]], [["@", "x"], []]),
        [["@", 0], [["set", [None, [["@", 0]]]]]],
        [["@", 0], [["dict", [None, [1]]]]],
        [["@", 0], [["object", [None, []]]]],
        [["@", 0], [["deque", ["x", []]]]],
        [["type", "Broken"], []],
        [["builtin", "exec"], []],
        [["late", ["os", "_exit", 0]], []],
        [["late", ["subprocess", "Popen", "true"]], []],
        [["record class", [1, "P", ["a b"]]], []],
        [["record class", [1, "P", ["a=__import__('os')"]]], []],
        [["record", [[1, "P", ["a"]], [1, 2]]], []],
        [["error class", [1, "", "E", []]], []],
        [["error class", [1, "", "E(object)", [[None, "builtins", "ValueError", []]]]], []],
        [["error class", [None, "builtins", "exec", []]], []],
        [["error class", [None, "unittest.case", "SkipTest", []]], []],
        [["error class", [None, "asarm.sandbox.inside.wire", "Broken", []]], []],
        [["error", [[None, "builtins", "ValueError", []], "", 7, [], None]], []],
        [["error", [[None, "builtins", "ValueError", []], "", [], [], 7]], []],
    ],
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
        read(nonsense)


def test_an_answer_may_change_nothing_but_what_was_given():
    program, mine = Program(None), [1]
    for contents in ([], [["dict", [None, []]]], [["deque", [None, []]]], [["set", [None, []]]]):
        with pytest.raises(ValueError):
            read([None, contents], program, [mine])
    with pytest.raises(TypeError):  # all of it or nothing
        read([None, [["list", [None, [2]]], ["set", [None, [["@", 0]]]]]], program, [mine, set()])
    assert mine == [1]


def test_what_the_tests_cannot_give_is_named():
    for value, name in ((lambda: 0, "function"), (object(), "object"), (iter([]), "list_iterator")):
        with pytest.raises(CannotCross, match=f"a test gives the program a {name}"):
            message([{"a": (value,)}], Program(None))
    assert read(message([len, ValueError("x")], Program(None)), Guest())[0] is len


# --- errors ---


def test_errors_keep_class_text_arguments_and_attributes():
    with pytest.raises(FileNotFoundError) as missing:
        Path("/no/such").read_text()
    with pytest.raises(json.JSONDecodeError) as broken:
        json.loads("{]")
    for error in (
        *(KeyError("x"), ValueError("a", 1, [2]), StopIteration(7), SystemExit(3)),
        *(UnicodeDecodeError("utf8", b"", 0, 1, ""), ExceptionGroup("", [OSError()])),
        *(missing.value, broken.value, RuntimeError()),
    ):
        found = crossed(error)
        assert type(found) is type(error) and str(found) == str(error)
        if not isinstance(error, ExceptionGroup):
            assert found.args == error.args
    assert crossed(broken.value).pos == 1 and crossed(missing.value).errno == 2
    assert crossed(StopIteration(7)).value == 7 and crossed(SystemExit(3)).code == 3


class Base(Exception):
    pass


class Coded(Base, LookupError):
    def __init__(self, code, about):
        super().__init__(f"code {code}")
        self.code, self.about = code, about

    def __str__(self):
        return f"<{self.code}>"


def test_errors_of_a_programs_own_classes_are_caught_by_them():
    guest, program = Guest(), Program(None)
    kinds = [read(message(kind, guest), program) for kind in (Base, Coded)]
    error = read(message(Coded(3, ["a"]), guest), program)
    assert isinstance(error, kinds[0]) and type(error) is kinds[1]
    assert isinstance(error, LookupError) and not isinstance(error, KeyError)
    assert (str(error), error.args, error.code, error.about) == ("<3>", ("code 3",), 3, ["a"])
    again = read(message(error, program), guest)
    assert type(again) is Coded


# --- verdicts are those of one interpreter ---


@pytest.mark.slow
def test_honest_verdicts_are_those_of_one_interpreter(best):
    passing, failing = pairs(honest.PASSING), pairs(honest.FAILING)
    programs = [Text(source, test, "f") for source, test in passing + failing]
    found = dict(run_programs(programs, isolation=best))
    expected = verdicts_of_one_interpreter(programs)
    differing = [n for n in range(len(programs)) if found[n].passed != expected[n]]
    assert not [(programs[n], found[n].result) for n in differing]
    assert expected == [True] * len(passing) + [False] * len(failing)


# --- and of nobody who cheats ---

FORGE = """
import os, struct, json
def forge(message):
    text = json.dumps(message).encode()
    for fd in range(3, 64):
        try: os.write(fd, struct.pack("!I", len(text)) + text)
        except OSError: pass
"""
SKIP = [1, "unittest.case", "SkipTest", []]
JUDGES = [1, "asarm.sandbox.inside.judge", "CannotCross", []]
ANSWERS = {
    "changes what it was not given": ["value", None, [None, ["list", [None, [9]]]]],
    "another kind": ["value", None, [["dict", [None, []]]]],
    "no word of what it was given": ["value", None, []],
    "an error of unittest's": ["error", ["error", [SKIP, "", [], [], None]], [None]],
    "an error that is none": ["error", 9, [None]],
    "the judge's own error": ["error", ["error", [JUDGES, "", [], [], None]], [None]],
    "python's own exec": ["value", ["builtin", "exec"], [None]],
    "a class with code": ["value", ["record class", [1, "P", ["a=exit()"]]], [None]],
    "a process": ["value", ["late", ["subprocess", "Popen", "true"]], [None]],
}
GIVEN = (
    "import unittest\nexpected = [1, 2]\ndef check(candidate):\n    x = [1]\n"
    "    assert candidate(x) == expected and x == [1]\n    assert candidate(x) == expected\n"
)


def test_no_forged_answer_passes(best):
    sources = {
        name: f"{FORGE}def f(x):\n    forge({answer!r})\n    return 0"
        for name, answer in ANSWERS.items()
    }
    sources["the tests' own lists"] = (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if o == [1, 2]: o[:] = [0]\n    return [0]"
    )
    found = outcomes(sources, best, limits=Limits(seconds=20, cpu_seconds=5), test=GIVEN)
    assert not [name for name, outcome in found.items() if outcome.passed]
    assert {o.result for o in found.values()} <= {
        *("failed: AssertionError", "failed: no answer but nonsense: ValueError"),
        *("failed: no answer but nonsense: KeyError", "failed: no answer but nonsense: IndexError"),
    }
    honest = outcomes({"": "def f(x): return [1, 2]"}, best, test=GIVEN, limits=Limits())
    assert honest == {"": Outcome(True, "passed")}


CLAIMS = string.Template("""
class E$base:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(x): return $value
""")


@pytest.mark.parametrize(
    ("base", "value"),
    [
        ("(Exception)", "E()"),
        ("(__import__('datetime').date)", "E(2024, 1, 1)"),
        ("(__import__('collections').Counter)", "E()"),
        ("(__import__('collections').namedtuple('E', 'x'))", "E(1)"),
        ("(__import__('collections').deque)", "E()"),
    ],
)
def test_what_equals_everything_equals_nothing(best, base, value):
    found = outcomes({"": CLAIMS.substitute(base=base, value=value)}, best, limits=Limits())
    assert found == {"": Outcome(False, "failed: AssertionError")}
