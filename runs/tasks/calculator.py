"""Arithmetic on what a model writes: a whitelist of syntax, with limits, instead of eval."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

Number = int | float
_BITS = 4096  # of a whole number
_LONGEST = 200  # characters of an expression
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculate(expression: str) -> Number:
    """The value of numbers joined by + - * / // % ** and brackets.

    Raises:
        ValueError: anything else, division by zero, or a number of more than 4096 bits.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression has at most {_LONGEST} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"not an expression: {expression}") from None
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _small(number)
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            one, other = _value(left), _value(right)
            if isinstance(op, ast.Pow):
                _check_power(one, other)
            return _small(_BINARY[type(op)](one, other))
    raise ValueError(f"not allowed here: {ast.unparse(node)}")


def _check_power(base: Number, exponent: Number) -> None:
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and (base.bit_length() - 1) * abs(exponent) > _BITS
    ):
        raise ValueError(f"a number of more than {_BITS} bits")


def _small(number: Number) -> Number:
    if isinstance(number, complex):
        raise ValueError("not a real number")
    if isinstance(number, int) and number.bit_length() > _BITS:
        raise ValueError(f"a number of more than {_BITS} bits")
    return number
