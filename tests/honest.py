"""Programs and tests that exchange dates, errors, containers and objects, and change them."""

PASSING = """
from datetime import *
def f(d): return d + timedelta(days=1)
# its test
from datetime import date
def check(c): assert c(date(2024, 2, 28)) == date(2024, 2, 29)
# ---
from datetime import *
def f(d): return d.replace(tzinfo=timezone.utc)
# its test
from datetime import *
def check(c): assert c(datetime(2024, 1, 1)).tzinfo is timezone.utc
# ---
from datetime import *
def f(d): return d
# its test
from datetime import *
def check(c): assert type(c(datetime(2024, 1, 1))) is datetime
# ---
def f(x): return x / 2
# its test
from decimal import Decimal
def check(c): assert repr(c(Decimal('1'))) == "Decimal('0.5')"
# ---
from collections import Counter as f
# its test
from collections import Counter
def check(c): assert isinstance(c('aab'), Counter) and c('a')['z'] == 0
# ---
from collections import *
def f(x):
    d = defaultdict(lambda: x)
    return d
# its test
def check(c): assert c(3)['new'] == 3
# ---
from collections import *
def f(x): return OrderedDict(b=1, a=2)
# its test
from collections import OrderedDict
def check(c): assert c(0) != OrderedDict(a=2, b=1)
# ---
from collections import *
def f(x): return deque(x, maxlen=2)
# its test
def check(c):
    d = c([1])
    d.extend([2, 3])
    assert list(d) == [2, 3]
# ---
from collections import *
P = namedtuple('P', 'x y')
def f(x): return P(x, 2)
# its test
def check(c): assert c(1).x == 1 and c(1) == P(1, 2) and isinstance(c(1), P)
# ---
from typing import NamedTuple
class P(NamedTuple):
    x: int
def f(p): return type(p) is P
# its test
def check(c): assert c(P(1))
# ---
def f(x): raise IndexError(x, [1])
# its test
def check(c):
    try: c('a')
    except IndexError as e: assert e.args == ('a', [1])
    else: assert False
# ---
def f(x): raise ValueError('bad %s' % x)
# its test
def check(c):
    try: c(1)
    except ValueError as e: assert e.args[0] == 'bad 1'
# ---
class E(ValueError): pass
def f(x): raise E('no')
# its test
def check(c):
    try: c(1)
    except E as e: assert str(e) == 'no'
    else: assert False
# ---
class E(ValueError): pass
class D(E): pass
def f(x): raise D('no')
# its test
def check(c):
    try: c(1)
    except E as e: assert type(e) is D and isinstance(e, ValueError)
# ---
class E(Exception):
    def __init__(self, n): self.n = n
def f(x): raise E(x)
# its test
def check(c):
    try: c(5)
    except E as e: assert e.n == 5
# ---
def f(x): return {}[x]
# its test
def check(c):
    try: c(5)
    except KeyError as e: assert e.args == (5,) and type(e) is KeyError
# ---
import json
def f(x): return json.loads(x)
# its test
import json
def check(c):
    try: c('{')
    except json.JSONDecodeError as e: assert e.pos == 1
# ---
def f(x): return open('/no/such/file')
# its test
def check(c):
    try: c(1)
    except FileNotFoundError as e: assert e.errno == 2 and e.filename == '/no/such/file'
# ---
import sys
def f(x): sys.exit(x)
# its test
def check(c):
    try: c(3)
    except SystemExit as e: assert e.code == 3
# ---
def f(x): return [type(e) for e in x]
# its test
def check(c): assert c([ValueError('a'), KeyError()]) == [ValueError, KeyError]
# ---
def f(x):
    x.append(1)
    raise ValueError
# its test
def check(c):
    x = []
    try: c(x)
    except ValueError: pass
    assert x == [1]
# ---
def f(x): return x
# its test
def check(c):
    x = [1]
    assert c(x) is x
# ---
def f(x): return list(x)
# its test
def check(c):
    x = [1]
    assert c(x) is not x and c(x) == x
# ---
def f(x): x[0].append(9)
# its test
def check(c):
    row = [1]
    x = [row, [2]]
    c(x)
    assert row == [1, 9] and x[0] is row
# ---
def f(x): x['a']['b'][0] = 9
# its test
def check(c):
    x = {'a': {'b': [1]}}
    inner = x['a']['b']
    c(x)
    assert inner == [9]
# ---
def f(x): x[1].add(2)
# its test
def check(c):
    s = {1}
    c((0, s))
    assert s == {1, 2}
# ---
def f(x, y): x.append(1)
# its test
def check(c):
    x = []
    c(x, x)
    assert x == [1]
# ---
def f(x, y): return x is y
# its test
def check(c):
    x = []
    assert c(x, x) and not c([], [])
# ---
def f(grid):
    grid[0][0] = 7
    return grid
# its test
def check(c):
    g = [[0] * 2] * 2
    assert c(g)[1] is g[0] and g == [[7, 0], [7, 0]]
# ---
def f(x): x[:] = x[::-1]
# its test
def check(c):
    a, b = [1], [2]
    x = [a, b]
    c(x)
    assert x[0] is b and x[1] is a
# ---
def f(x): x.append(x)
# its test
def check(c):
    x = []
    c(x)
    assert x[0] is x
# ---
def f(x): x.reverse()
# its test
def check(c):
    x = bytearray(b'ab')
    c(x)
    assert x == b'ba'
# ---
def f(x): x.rotate(1)
# its test
from collections import deque
def check(c):
    x = deque([1, 2, 3])
    c(x)
    assert x == deque([3, 1, 2])
# ---
def f(x): x.update('ab')
# its test
from collections import Counter
def check(c):
    x = Counter('a')
    c(x)
    assert x == Counter('aab')
# ---
def f(x): x.move_to_end('a')
# its test
from collections import OrderedDict
def check(c):
    x = OrderedDict(a=1, b=2)
    c(x)
    assert list(x) == ['b', 'a']
# ---
def f(x): x[0] = True
# its test
def check(c):
    x = [1]
    c(x)
    assert x[0] is True
# ---
def f(x): return len(x)
# its test
def check(c):
    x = [float('nan')]
    y = list(x)
    c(x)
    assert x == y
# ---
def f(xs, key): return max(xs, key=key)
# its test
def check(c): assert c(['a', 'bb'], len) == 'bb'
# ---
def f(x, kind): return kind(x)
# its test
def check(c): assert c(1, str) == '1'
# ---
class N:
    def __init__(self, v): self.v, self.next = v, None
def f(n):
    s = 0
    while n: s, n = s + n.v, n.next
    return s
# its test
def check(c):
    a, b = N(1), N(2)
    a.next = b
    assert c(a) == 3 and a.next is b and a.next.v == 2
# ---
class B(dict):
    pass
class G:
    def __init__(self): self.d = {}
    def __getitem__(self, k): return self.d[k]
    def __setitem__(self, k, v): self.d[k] = v
    def __delitem__(self, k): del self.d[k]
def f(g): return g.d
# its test
def check(c):
    g = G()
    g['a'] = 1
    g['b'] = 2
    del g['a']
    assert c(g) == {'b': 2} and g['b'] == 2
# ---
import enum
class K(enum.Enum):
    A = 1
    B = 2
def f(x): return K(x)
# its test
def check(c): assert c(1) is K.A and c(2) == K.B and c(1) != K.B
# ---
def f(x):
    try:
        return {}[x]
    except KeyError as error:
        found = ValueError(x)
        found.add_note("a note")
        raise found from error
# its test
def check(c):
    try: c(5)
    except ValueError as e:
        assert type(e.__cause__) is KeyError and e.__cause__.args == (5,)
        assert e.__notes__ == ["a note"]
    else: assert False
"""

FAILING = """
def f(x): x[0].append(8)
# its test
def check(c):
    row = [1]
    c([row])
    assert row == [1, 9]
# ---
def f(x): return x[:]
# its test
def check(c):
    x = [1]
    assert c(x) is x
# ---
class E(ValueError): pass
class D(ValueError): pass
def f(x): raise D('no')
# its test
def check(c):
    try: c(1)
    except E: pass
# ---
def f(x): raise IndexError('b')
# its test
def check(c):
    try: c(1)
    except IndexError as e: assert e.args == ('a',)
# ---
from datetime import *
def f(d): return d + timedelta(days=2)
# its test
from datetime import date
def check(c): assert c(date(2024, 2, 28)) == date(2024, 2, 29)
"""


def pairs(text: str) -> list[tuple[str, str]]:
    """The programs with their tests."""
    found = [part.partition("# its test") for part in text.split("# ---")]
    return [(source.strip(), test.strip()) for source, _, test in found]
