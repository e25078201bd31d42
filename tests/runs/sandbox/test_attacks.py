"""Wrong programs that try to pass: by tampering, by objects that claim anything, by exceptions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from scramble.runs.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
ATTACKS = yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text())
TESTS = "assert abs(f(1) - 2) < 0.1"


@pytest.mark.parametrize("name", ATTACKS["tampering"])
def test_tampering_does_not_pass(name: str) -> None:
    assert not Sandbox().run(ATTACKS["tampering"][name], TESTS).passed


@pytest.mark.parametrize("name", ATTACKS["liars"])
def test_an_object_that_claims_anything_is_believed_in_nothing(name: str) -> None:
    """The tests pass if none of the claims is believed."""
    assert Sandbox(seconds=20).run(ATTACKS["liars"][name], ATTACKS["claims"]).passed


RIGHT = "def f(x): return x + 1\nclass F:\n    def f(self, x): return f(x)"
TRUE_CLAIMS = [
    *(
        "equal",
        "reflected",
        "order",
        "difference",
        "isclose",
        "approx",
        "allclose",
        "norm",
        "set",
        "in a list",
    ),
    *(
        "sorted",
        "sum",
        "text",
        "fraction",
        "decimal",
        "solution",
        "solution's difference",
        "unittest",
        "almost",
    ),
]


def test_a_right_value_is_believed() -> None:
    """So that no claim is refused for another reason."""
    tests = ATTACKS["claims"].replace("assert not believed", f"assert {{*{TRUE_CLAIMS!r}}} <= {{*believed}}")
    assert tests != ATTACKS["claims"]
    assert Sandbox(seconds=20).run(RIGHT, tests).passed
    assert not Sandbox(seconds=20).run(RIGHT, tests.replace("{*[", "{*['none', ")).passed


SCRIPT = "with f() as x:\n    assert x == 2\n"
CASES = (
    "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        with f() as x:\n"
    "            assert x == 2\nunittest.main()"
)


@pytest.mark.parametrize("name", ATTACKS["silencing"])
@pytest.mark.parametrize("tests", [SCRIPT, CASES], ids=["script", "unittest"])
def test_no_exception_of_the_program_ends_the_tests_with_success(name: str, tests: str) -> None:
    assert not Sandbox().run(ATTACKS["silencing"][name], tests).passed


@pytest.mark.parametrize("tests", [SCRIPT, CASES], ids=["script", "unittest"])
def test_a_right_context_passes(tests: str) -> None:
    program = (
        "class C:\n    def __enter__(self): return 2\n    def __exit__(self, *_): pass\ndef f(): return C()"
    )
    assert Sandbox().run(program, tests).passed


OWN_CLASS = "class N:\n    def value(self): return 3\nn = N()\nf(n)\nassert n.value() == 2 or n.x == 2"


@pytest.mark.parametrize(
    "program",
    [
        "def f(n): n.value = lambda: 2",
        "def f(n): type(n).value = lambda self: 2",
        "def f(n): del type(n).value\nx = 2",
        "def f(n): n.__class__ = type('N', (), {'x': 2})",
        "def f(n): n.__dict__['x'] = 2",
        "def f(n): type(n).__getattr__ = lambda self, name: 2",
        "def f(n): n.value.__func__.__code__ = (lambda self: 2).__code__",
        "def f(n): n.value.__func__.__globals__['n'] = type('N', (), {'x': 2})",
    ],
)
def test_the_classes_of_the_tests_stay_as_they_are(program: str) -> None:
    assert not Sandbox().run(program, OWN_CLASS).passed
    assert Sandbox().run("def f(n): n.x = 2", OWN_CLASS.replace("n.value() == 2 or ", "")).passed


FRAMES = (
    "def g():\n    hidden = 2\n    yield 1\n"
    "try:\n    y = f(g())\nexcept Exception:\n    y = None\nassert y is not None"
)


@pytest.mark.parametrize(
    "program",
    [
        "def f(g): return g.gi_frame.f_globals",
        "def f(g): return g.gi_code.co_consts",
        "def f(g): return g.throw",
        "def f(g): return g.__next__.__self__.gi_frame",
    ],
)
def test_no_frame_of_the_tests_is_in_reach(program: str) -> None:
    assert not Sandbox().run(program, FRAMES).passed
    assert Sandbox().run("def f(g): return next(g)", FRAMES).passed
