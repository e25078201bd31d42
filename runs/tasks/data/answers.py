"""Right answers of an example, texts and numbers, any of which is accepted; written down as one string."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal

Answer = str | int | Decimal

_JSON = "\x1e"  # what begins a JSON text in a sequence of texts (RFC 7464)
_NUMBER = re.compile(r"[-+]?(?:(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?")


def write(answers: Sequence[Answer]) -> str:
    """One text is itself; anything else is JSON after a mark that no text begins with."""
    first = answers[0]
    if len(answers) == 1 and isinstance(first, str) and not first.startswith(_JSON):
        return first
    return (
        f"{_JSON}[{', '.join(json.dumps(one) if isinstance(one, str) else in_words(one) for one in answers)}]"
    )


def read(written: str) -> list[Answer]:
    """What `write` was given."""
    if not written.startswith(_JSON):
        return [written]
    return list(json.loads(written[len(_JSON) :], parse_float=Decimal))


def in_words(answer: Answer) -> str:
    """A text itself; a number in decimals, without an exponent and without zeros at the end: 18.0 as `18`."""
    if not isinstance(answer, Decimal):
        return str(answer)
    text = format(answer, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def same(said: str, answer: Answer) -> bool:
    """Whether a text is this answer: letter by letter, or as a number (`1,800` is `1.8e3`)."""
    said = said.strip()
    if isinstance(answer, str):
        return said == answer.strip()
    return _NUMBER.fullmatch(said) is not None and Decimal(said.replace(",", "")) == answer
