"""Functions of text. What they would make is measured before it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from graph.cypher.arithmetic import spend_on_list, spend_on_text
from graph.cypher.runtime import Runtime
from graph.errors import BadQuery


def _texts(name: str, *values: Any) -> None:
    if any(type(value) is not str for value in values):
        raise BadQuery(f"{name}() takes strings")


def _counts(name: str, *values: Any) -> None:
    if any(type(value) is not int or value < 0 for value in values):
        raise BadQuery(f"{name}() takes positions and lengths of 0 and more")


def _plain(name: str, call: Callable[[str], str]) -> Callable[[Runtime, Any], str]:
    def of_text(run: Runtime, value: Any) -> str:
        _texts(name, value)
        spend_on_text(len(value), run.spend)
        return call(value)

    return of_text


def _left(_run: Runtime, text: Any, length: Any) -> str:
    _texts("left", text)
    _counts("left", length)
    return str(text[:length])


def _right(_run: Runtime, text: Any, length: Any) -> str:
    _texts("right", text)
    _counts("right", length)
    return str(text[max(0, len(text) - length) :])


def _substring(_run: Runtime, text: Any, start: Any, length: Any = None) -> str:
    _texts("substring", text)
    _counts("substring", start, 0 if length is None else length)
    return str(text[start:] if length is None else text[start : start + length])


def _replace(run: Runtime, text: Any, old: Any, new: Any) -> str:
    _texts("replace", text, old, new)
    spend_on_text(len(text) + text.count(old) * max(0, len(new) - len(old)), run.spend)
    return str(text.replace(old, new))


def _split(run: Runtime, text: Any, separator: Any) -> list[str]:
    _texts("split", text, separator)
    parts = len(text) if separator == "" else text.count(separator) + 1
    spend_on_list(parts, run.spend)
    run.spend(parts)
    return list(text) if separator == "" else text.split(separator)


TEXT_FUNCTIONS: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "left": (2, 2, _left),
    "replace": (3, 3, _replace),
    "right": (2, 2, _right),
    "split": (2, 2, _split),
    "substring": (2, 3, _substring),
    "tolower": (1, 1, _plain("toLower", str.lower)),
    "toupper": (1, 1, _plain("toUpper", str.upper)),
    "trim": (1, 1, _plain("trim", str.strip)),
    "ltrim": (1, 1, _plain("ltrim", str.lstrip)),
    "rtrim": (1, 1, _plain("rtrim", str.rstrip)),
}
