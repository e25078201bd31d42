"""Random programs and tests, right and wrong: what functions return, and what tests do with it."""

from __future__ import annotations

import random

HEAD = """\
import collections, dataclasses, datetime, decimal, enum, fractions
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
"""
CLASSES = """\
P = namedtuple("P", "a b")
class Color(enum.Enum):
    RED = 1
    BLUE = 2
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2
@dataclasses.dataclass(order=True, frozen=True)
class Point:
    x: object
    y: object = 0
    def moved(self, by):
        return Point(by, self.y)
class Box:
    def __init__(self, item):
        self.item = item
    def __eq__(self, other):
        return type(other) is Box and self.item == other.item
    def __hash__(self):
        return 1
    def __repr__(self):
        return f"Box({self.item!r})"
    def __len__(self):
        return 2
    def __iter__(self):
        return iter([self.item, self.item])
class Oops(ValueError):
    pass
"""
SCALARS = (
    *(
        "0",
        "1",
        "-7",
        "2**70",
        "True",
        "None",
        "0.5",
        "-0.0",
        "float('inf')",
        "1e-9",
        "'a'",
        "''",
        "'é\\n'",
        "b'x'",
    ),
    *("2j", "range(3)", "fractions.Fraction(1, 3)", "decimal.Decimal('1.50')", "datetime.date(2024, 2, 29)"),
    *("datetime.timedelta(hours=3)", "int", "ValueError", "...", "frozenset([1])"),
)
OBJECTS = (
    "P(1, [2])",
    "Color.RED",
    "Level.HIGH",
    "Point(1)",
    "Point('a', (1, 2))",
    "Box(3)",
    "Box([1])",
    "Point",
)
NESTED = (
    *(
        "[{0}, {1}]",
        "({0}, {1})",
        "({0},)",
        "{{'a': {0}, 2: {1}}}",
        "[]",
        "()",
        "{{}}",
        "set()",
        "[[{0}], [{1}]]",
    ),
    *("deque([{0}], 3)", "Counter('abca')", "OrderedDict(a={0})", "defaultdict(list, a=[{1}])", "{{1, 'b'}}"),
    *("{{'a': {0}}}.keys()", "bytearray(b'ab')", "[{0}] * 3", "P({0}, {1})", "Box({0})", "Point({0}, {1})"),
)
# What the function does, and what it then returns as far as one can say; {x} is its argument.
BODIES = {
    **{"return {0}": "{0}", "y = {0}\n    return y": "{0}", "if a == 5: return 1\n    return {0}": "{0}"},
    **{
        "return a": "{x}",
        "return [a, {0}]": "[{x}, {0}]",
        "return (a, a)": "({x}, {x})",
        "return a[0]": "{x}[0]",
    },
    **{"return type({0})": "type({0})", "a.append({0})": "None", "a.sort()\n    return a": "sorted({x})"},
    **{"a.clear()\n    a.extend([{0}])\n    return a": "[{0}]", "yield {0}\n    yield a": "[{0}, {x}]"},
    **{"raise ValueError({0})": "{0}", "raise Oops('no', {0})": "{0}", "return len(a)": "len({x})"},
    **{"return sorted(a)": "sorted({x})", "return lambda: {0}": "{0}", "print({0})": "None"},
    **{"return [y for y in a if y == {0}]": "[]", "return dict(a={0}, b=a)": "{{'a': {0}, 'b': {x}}}"},
}
TESTS = (
    *(
        "assert f(x) == {e}",
        "assert {e} == f(x)",
        "assert f(x) != {e}",
        "assert not f(x) == {e}",
        "assert f(x)",
    ),
    *("assert repr(f(x)) == repr({e})", "assert len(f(x)) == len({e})", "assert type(f(x)) is type({e})"),
    *(
        "assert isinstance(f(x), (int, str, list, tuple))",
        "assert list(f(x)) == list({e})",
        "f(x)",
        "assert f(x)()",
    ),
    *("assert {e} in f(x)", "assert f(x) in [{e}, 5]", "assert [f(x)] == [{e}]", "assert f(x)[0] == {e}"),
    *(
        "f(x)\nassert x == {e}",
        "f(x)\nassert x == {x}",
        "assert {{'k': f(x)}} == {{'k': {e}}}",
        "assert f(x) is x",
    ),
    *("assert sorted(f(x)) == sorted({e})", "assert str(f(x)) == str({e})", "assert hash(f(x)) == hash({e})"),
    *("assert f(f(x)) == {e}", "assert f(x) == f({x})", "assert f(x) is None", "assert next(f(x)) == {e}"),
    *("assert f(x)() == {e}", "assert abs(f(x) - {e}) < 1e-6", "assert f(x) < {e}", "assert f(x) + {e}"),
    *("try:\n    f(x)\nexcept ValueError as e:\n    assert e.args[-1] == {e}\nelse:\n    assert False",),
    *(
        "for one, other in zip(f(x), {e}):\n    assert one == other",
        "y = f(x)\ny.append(1)\nassert y == {e} + [1]",
    ),
    *(
        "assert f(x).item == {e}",
        "assert f(x).x == {e} and f(x).moved(3).x == 3",
        "a, b = f(x)\nassert a == {e}",
    ),
    *("assert max(f(x), {e}) == {e}", "assert {{f(x): 1}} == {{{e}: 1}}", "assert f(x).name == 'RED'"),
    *(
        "assert (f(x) == {e}) is True",
        "assert all(one == {e} for one in f(x))",
        "assert '%s' % (f(x),) == '%s' % ({e},)",
    ),
)


def generated(seed: int) -> tuple[str, str]:
    """A program and its tests; most tests expect what the program returns."""
    rng = random.Random(seed)

    def value(depth: int, own: bool = True) -> str:
        kind = rng.random()
        if depth and kind < 0.5:
            shapes = [one for one in NESTED if own or not one.startswith(("P", "Box"))]
            return rng.choice(shapes).format(value(depth - 1, own), value(depth - 1, own))
        return rng.choice(OBJECTS if own and kind > 0.8 else SCALARS)

    result, argument = value(2), rng.choice(["[3, 1, 2]", "[]", "['b', 'a']", value(2)])
    body = rng.choice(list(BODIES))
    actual = BODIES[body].format(result, x=argument)
    tests = ""
    for _ in range(rng.choice([1, 1, 1, 2])):
        expected = rng.choice([actual, actual, actual, actual, value(1), f"[{argument}, {result}]"])
        test = rng.choice([*TESTS, *TESTS[:2] * 8, *TESTS[5:8] * 3, *TESTS[9:10] * 3])
        tests += f"x = {argument}\n{test.format(e=expected, x=argument)}\n"
    return f"{HEAD}{CLASSES}def f(a):\n    {body.format(result)}\n", f"{HEAD}{tests}"
