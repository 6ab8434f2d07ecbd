"""Arithmetic as openCypher has it: 64-bit integers that never wrap, integer division that
truncates, IEEE floats, and `+` on strings and lists. Null in, null out.

What an expression makes is bounded: doubling a string sixty times is a short query.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from graph.cypher.values import Spend, is_number, kind
from graph.errors import BadQuery

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
ELEMENTS_MAX: Final = 1_000_000
"""Elements of a list, characters of a string, that an expression makes."""


def checked(value: int) -> int:
    """Return an integer that fits."""
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise BadQuery("an integer result needs more than 64 bits")
    return value


def spend_on_list(length: int, spend: Spend) -> None:
    """Spend for a list that is about to be made; refuse one that is too long."""
    _bounded(length)
    spend(length >> 3)


def spend_on_text(length: int, spend: Spend) -> None:
    """Spend for a string that is about to be made; refuse one that is too long."""
    _bounded(length)
    spend(length >> 5)


def _bounded(size: int) -> None:
    if size > ELEMENTS_MAX:
        raise BadQuery(f"a list or string that a query makes has at most {ELEMENTS_MAX} elements")


def in_text(value: Any) -> str:
    """Return a number, boolean or string as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def add(left: Any, right: Any, spend: Spend) -> Any:
    """Return `left + right`: a sum, two strings joined, or a list with more in it."""
    if is_number(left) and is_number(right):
        total = left + right
        return checked(total) if type(total) is int else total
    if left is None or right is None:
        return None
    if type(left) is list or type(right) is list:
        front = left if type(left) is list else [left]
        back = right if type(right) is list else [right]
        spend_on_list(len(front) + len(back), spend)
        return front + back
    if (type(left) is str and (type(right) is str or is_number(right))) or (
        type(right) is str and is_number(left)
    ):
        text = in_text(left) + in_text(right)
        spend_on_text(len(text), spend)
        return text
    raise BadQuery(f"+ does not go with {kind(left)} and {kind(right)}")


def _subtract(left: Any, right: Any) -> Any:
    return left - right


def _multiply(left: Any, right: Any) -> Any:
    return left * right


def _divide(left: Any, right: Any) -> Any:
    if type(left) is int and type(right) is int:
        if right == 0:
            raise BadQuery("an integer was divided by zero")
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    if right != 0:
        return left / right
    if left == 0 or left != left:
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def _remainder(left: Any, right: Any) -> Any:
    if type(left) is int and type(right) is int:
        if right == 0:
            raise BadQuery("an integer was divided by zero")
        rest = abs(left) % abs(right)
        return -rest if left < 0 else rest
    if right == 0 or math.isinf(left):
        return math.nan
    return math.fmod(left, right)


def _power(left: Any, right: Any) -> float:
    try:
        return math.pow(left, right)
    except ValueError:
        return math.inf if left == 0 else math.nan
    except OverflowError:
        negative = left < 0 and math.fmod(right, 2) != 0
        return -math.inf if negative else math.inf


_OPERATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "%": _remainder,
    "^": _power,
}


def calculate(op: str, left: Any, right: Any, spend: Spend) -> Any:
    """Return `left op right`."""
    if op == "+":
        return add(left, right, spend)
    if left is None or right is None:
        return None
    if not (is_number(left) and is_number(right)):
        raise BadQuery(f"{op} does not go with {kind(left)} and {kind(right)}")
    result = _OPERATIONS[op](left, right)
    return checked(result) if type(result) is int else result


def negate(value: Any) -> Any:
    """Return `-value`."""
    if value is None:
        return None
    if not is_number(value):
        raise BadQuery(f"- does not go with {kind(value)}")
    return checked(-value) if type(value) is int else -value
