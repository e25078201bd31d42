"""The program in a completion, as models and people write completions."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scramble.runs.tasks.data.fences import program_in

FENCED_DOCSTRING = (
    'def add(a, b):\n    """Add.\n\n    ```python\n    add(1, 2)\n    ```\n    """\n    return a + b\n'
)
FENCE_AT_THE_MARGIN = 'def add(a, b):\n  """Add.\n\n```\nadd(1, 2)\n```\n  """\n  return a + b\n'
PROGRAMS = [
    "def add(a, b):\n    return a + b\n",
    "from __future__ import annotations\n\ndef add(a: Any, b: Any) -> Any:\n\treturn a + b\n",
    "mark = '```'\n\ndef add(a, b):\n    return a + b\n",
    "def add(a, b):\n    text = '''\n    ~~~\n    '''\n    return a + b\n",
    FENCED_DOCSTRING,
    FENCE_AT_THE_MARGIN,
]
WRONG = "add = None\n"
LANGUAGES = [
    *("python", "Python", "PYTHON", "python3", "py", "py3", "python3.11", " python ", "python title='a.py'"),
    *("{.python .numberLines}", "{python}", "{python, echo=FALSE}", "python {.line-numbers}", ".python", ""),
]
BEFORE = [
    *(
        "",
        "Here it is:\n",
        "# Solution\n\n",
        "```text\nadd 1 and 2\n```\n\n",
        "```bash\npip install x\n```\n",
    ),
    *(f"```python\n{WRONG}```\nBetter:\n", f"~~~py\n{WRONG}~~~\n", "Costs `O(1)` and ``a`b``.\n"),
]
AFTER = [
    *("", "\nDone.\n", "\n```text\n3\n```\n", "\n```\n", "\n```sh\npython solution.py\n```\nor not.\n"),
    *("\n````markdown\n```\nno\n```\n````\n", "\n~~~console\n$ add\n~~~\n"),
]


def same(found: str, program: str) -> bool:
    """Up to white space at the ends, which Markdown may drop."""
    return found.strip() == program.strip()


@st.composite
def completions(draw: st.DrawFn) -> tuple[str, str]:
    """A completion and its program."""
    program, language = draw(st.sampled_from(PROGRAMS)), draw(st.sampled_from(LANGUAGES))
    before, after = draw(st.sampled_from(BEFORE)), draw(st.sampled_from(AFTER))
    if not language and "py" in before:
        before = ""
    if not language and after == "\n```\n":  # opens a last block without a language
        after = ""
    fence = draw(st.sampled_from(["```", "`````", "~~~", "~~~~"]))
    if fence.startswith("~") and "{" not in language:
        language = draw(st.sampled_from([language, f"{language} `x`"])) if language else language
    block = f"{fence}{language}\n{program}{fence}\n"
    indent = draw(st.sampled_from(["", " ", "   ", "1. "]))
    block = indent + textwrap.indent(block, " " * len(indent))[len(indent) :]
    return f"{before}{block}{after}", program


@given(completions())
def test_the_program_comes_out_whatever_stands_around_it(case: tuple[str, str]) -> None:
    completion, program = case
    assert same(program_in(completion), program)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_completion_that_is_python_is_the_program(program: str) -> None:
    assert program_in(program) == program
    head, _, body = program.partition("b):\n")
    if body:
        assert program_in(body, before=f"{head}b):\n") == program


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("indent", ["    ", "\t", "          "])
def test_fences_indented_as_code(program: str, indent: str) -> None:
    block = textwrap.indent(f"```python\n{program}```\n", indent, lambda line: True)
    for before in ("", "Here it is:\n", "Here it is:\n\n"):
        assert same(program_in(f"{before}{block}Done."), program)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_a_block_that_is_cut_or_closed_late(program: str, fence: str) -> None:
    assert same(program_in(f"Here:\n{fence}python\n{program}"), program)
    assert same(program_in(f"Here:\n{fence}python\r\n{program.replace(chr(10), chr(13) + chr(10))}"), program)
    assert same(program_in(f"Here:\n{fence}python\n{program}{fence} Done.\nIt adds."), program)
    assert same(program_in(f"Here:\n{fence}python\n{program.rstrip()}{fence}\nDone."), program)


def test_which_block_counts() -> None:
    right = PROGRAMS[0]
    assert same(program_in(f"```python\n{right}```\n```\n{WRONG}```"), right)
    assert same(program_in(f"```js\n{WRONG}```\n```\n{right}```\n```text\n3\n```"), right)
    assert same(program_in(f"```python\n{WRONG}```\n```py\n{right}```"), right)
    assert same(program_in(f"```python\n{right}```\n```python\n{WRONG}```"), WRONG)
    for nothing in ("", "It adds.", f"```js\n{right}```", f"```pycon\n>>> 1\n```\nIt is {right}"):
        assert program_in(nothing) == nothing
    assert program_in("no python here", before="x = 1\n") == "x = 1\nno python here"
