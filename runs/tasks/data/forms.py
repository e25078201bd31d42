"""Where the final answer stands in a solution: GSM8K's mark, `\\boxed{...}`, or the whole text is the answer.

The form belongs to a data set, and its solutions and the model's completions are read by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from scramble.errors import RecipeError

Form = Literal["plain", "boxed", "gsm8k"]

FORMS: dict[Form, str] = {
    "plain": "the whole text is the answer",
    "boxed": "the last \\boxed{...} holds the answer",
    "gsm8k": "the last line is `#### ANSWER`",
}
_MARK = re.compile(r"#{4}\s+(?P<answer>\S.*)")
_EMPHASIS = re.compile(r"(\*\*\*|\*\*|\*|__|_|`)(?P<inside>.+)\1")
_MATH_ENVIRONMENTS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_DOLLAR = re.compile(r"(?<!\\)\$")
_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*(?P<brace>\{)|\s+(?P<token>[^\s${}\\]+))?")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped one is a character of the answer
# What letters may be part of in mathematics, and then are no word: the name of a command, text in LaTeX.
_NO_WORDS = re.compile(
    r"\\(?:text\w*|mbox|hbox|math\w+|operatorname|begin|end)\*?\s*\{[^{}]*\}|\\[A-Za-z]+|(?<=\d)\s*(?:and|or)\b"
)
_WORD = re.compile(r"[^\W\d_]{3,}")


def final_answer(text: str, form: Form) -> str | None:
    """The answer in a text of this form; None where there is none."""
    match form:
        case "plain":
            return bare(text) or None
        case "boxed":
            return _boxed(text)
        case "gsm8k":
            return marked(text)


def form_of(texts: Iterable[tuple[str, str]]) -> Form:
    """The one form that all texts have.

    A text whose last line is `#### ANSWER` is of the form gsm8k, else one with a box is boxed, else it is
    plain.

    Args:
        texts: each with its name in messages.

    Raises:
        RecipeError: not all have the same.
    """
    first: tuple[Form, str] | None = None
    for text, where in texts:
        form: Form = "gsm8k" if marked(text) else "boxed" if _BOX.search(text) else "plain"
        if first is None:
            first = form, where
        elif form != first[0]:
            raise RecipeError(
                f"task: {where}: the answer is of the form '{form}' ({FORMS[form]}), that of {first[1]} of "
                f"the form '{first[0]}'; say in task.form which one the data set has"
            )
    return first[0] if first else "plain"


def marked(text: str) -> str | None:
    """What GSM8K's mark says: the last line that is not blank is `#### ANSWER`.

    Before words, the answer is the first that stands there if it begins like a number (`#### 42 apples`). A
    line of other words is a heading of Markdown (`#### Solution`) and no mark.
    """
    lines = text.rstrip().rsplit("\n", 1)
    found = _MARK.fullmatch(lines[-1].strip())
    if found is None:
        return None
    answer = bare(found["answer"])
    answer = _boxed(answer) or answer
    if not words(answer):
        return answer
    first = bare(answer.split()[0]).rstrip(",.;:")
    return first if re.match(r"[-+]?[^\w\s]?\.?\d", first) and not words(first) else None


def bare(text: str) -> str:
    """Without Markdown's emphasis and the delimiters of mathematics around it."""
    text = text.strip()
    if emphasis := _EMPHASIS.fullmatch(text):
        return bare(emphasis["inside"])
    for begin, end in _MATH_ENVIRONMENTS:
        inside = text[len(begin) : -len(end)]
        if len(text) > len(begin + end) and text.startswith(begin) and text.endswith(end):
            return text if _DOLLAR.search(inside) else bare(inside)
    return text


def words(answer: str) -> list[str]:
    """Three letters or more in a row that are neither a command of LaTeX nor inside `\\text{}`."""
    return _WORD.findall(_NO_WORDS.sub(" ", answer))


def _boxed(text: str) -> str | None:
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    if not boxes[-1]["brace"]:
        return boxes[-1]["token"]
    depth, begin = 0, boxes[-1].start("brace")
    for brace in _BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[begin + 1 : brace.start()].strip() or None
    return None
