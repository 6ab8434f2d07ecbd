"""Where something stands in a JSON text, as a path such as `points[3].vector[0]`.

Only for requests that are refused: it walks the text's tokens in Python, which is slow, and it
needs no well-formed text, because it explains texts that are not. The decoder says what is
wrong, this module says where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

LOCATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Beyond this the walk would take seconds; the refusal then names no field."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
_VECTOR_ELEMENT: Final = re.compile(
    r"^(.*?(?:vector|vectors\[\d+\]|query|nearest|embedding))\[\d+\]$", re.DOTALL
)


@dataclass(slots=True)
class _Frame:
    """An open container: an object with its current key, or an array with its position."""

    is_object: bool
    key: str | None = None
    position: int = 0
    seen: set[str] = field(default_factory=set)


def path_at(raw: bytes, offset: int) -> str | None:
    """Return the path of the value that byte `offset` belongs to; None at the top."""
    if len(raw) > LOCATE_BYTES_MAX:
        return None
    for stack, start, _ in _walk(raw):
        if start >= offset:
            return _render(stack)
    return None


def path_at_depth(raw: bytes, depth: int) -> str | None:
    """Return the path of the first container nested deeper than `depth`."""
    for stack, _, _ in _walk(raw[:LOCATE_BYTES_MAX]):
        if len(stack) > depth:
            return _render(stack[:-1])
    return None


def path_of_duplicate(raw: bytes) -> str | None:
    """Return the path of the first key that its object already has."""
    for stack, _, repeated in _walk(raw[:LOCATE_BYTES_MAX]):
        if repeated:
            return _render(stack)
    return None


def vector_of(path: str) -> str:
    """Return the path of the vector when `path` is one of its elements, else the path itself."""
    found = _VECTOR_ELEMENT.match(path)
    return found[1] if found else path


def render_path(parts: list[str | int]) -> str:
    """Return object keys and array positions as one path."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def find_value(value: Any, wanted: Any) -> list[str | int] | None:
    """Return the parts of the path of the first value or key for which `wanted(value)` holds."""
    pending: list[tuple[list[str | int], Any]] = [([], value)]
    while pending:
        parts, item = pending.pop()
        if wanted(item):
            return parts
        if isinstance(item, dict):
            bad_key = next((key for key in item if wanted(key)), None)
            if bad_key is not None:
                return parts
            pending.extend(([*parts, key], inner) for key, inner in reversed(item.items()))
        elif isinstance(item, list):
            pending.extend(
                ([*parts, position], item[position]) for position in reversed(range(len(item)))
            )
    return None


def _walk(raw: bytes) -> Iterator[tuple[list[_Frame], int, bool]]:
    """Yield, before each token takes effect, the open containers and the token's start.

    The third part says that the key just read repeats an earlier one of its object.
    """
    stack: list[_Frame] = []
    for token in _TOKEN.finditer(raw):
        yield stack, token.start(), False
        mark = token[0]
        if mark in b"{[":
            stack.append(_Frame(is_object=mark == b"{"))
        elif mark in b"}]":
            if stack:
                stack.pop()
        elif stack and _advance(stack[-1], mark):
            yield stack, token.start(), True
    yield stack, len(raw), False


def _advance(frame: _Frame, mark: bytes) -> bool:
    """Move inside a container; return whether a key came a second time."""
    if mark == b",":
        frame.key = None
        frame.position += 1
    elif mark != b":" and frame.is_object and frame.key is None:
        frame.key = _text(mark)
        repeated = frame.key in frame.seen
        frame.seen.add(frame.key)
        return repeated
    return False


def _text(token: bytes) -> str:
    try:
        return msgspec.json.decode(token, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return token[1:-1].decode("utf-8", "replace")


def _render(stack: list[_Frame]) -> str | None:
    parts: list[str | int] = []
    for frame in stack:
        if not frame.is_object:
            parts.append(frame.position)
        elif frame.key is not None:
            parts.append(frame.key)
    return render_path(parts) or None
