"""math-verify in a process of its own, see `scramble.runs.tasks.workers.worker`.

Questions: whether the answer of a `completion` equals an `answer`; without one, whether the answer is an
expression. Answers: `1` yes, `0` no. The process dies on an expression that takes more CPU time than it may.

python -m scramble.runs.tasks.workers.math_worker SECONDS BYTES
"""

from __future__ import annotations

import math
import re
import sys
from decimal import Decimal
from typing import Any

from scramble.runs.tasks.workers.worker import limited, serve

_E_NOTATION = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,2}(?![\w.]*\w)")
_DECIMALS, _DIGITS = 6, 4


def main() -> None:
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    from math_verify import parse, verify

    def answer(question: dict[str, str]) -> str:
        box = f"\\boxed{{{_without_e_notation(question['answer'])}}}"
        try:
            if "completion" not in question:
                return str(int(bool(parse(box, fallback_mode="no_fallback", parsing_timeout=None))))
            right = parse(box, parsing_timeout=None)
            said = parse(_without_e_notation(question["completion"]), parsing_timeout=None)
            return str(int(verify(right, said, float_rounding=_decimals(right), timeout_seconds=None)))
        except Exception:  # sympy raises many kinds on what a model writes; none of that is the answer
            return "0"

    serve(limited(answer, seconds, memory))


def _without_e_notation(text: str) -> str:
    """`1e-7` as 0.0000001: LaTeX takes the letter for Euler's number."""
    return _E_NOTATION.sub(lambda number: format(Decimal(number[0]), "f"), text)


def _decimals(right: list[Any]) -> int:
    """Decimals that floats are compared by: math-verify's six, more where that leaves no four digits."""
    try:
        size = abs(complex(right[0]))
    except (TypeError, ValueError, OverflowError, IndexError):  # no number
        return _DECIMALS
    if size == 0 or not math.isfinite(size):
        return _DECIMALS
    return max(_DECIMALS, _DIGITS - 1 - math.floor(math.log10(size)))


if __name__ == "__main__":
    main()
