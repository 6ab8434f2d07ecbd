"""Paths into a payload: `a.b`, `a[].b`, `a[0]`, `"a key with. dots".b`.

A key is letters, digits, `_` and `-`, or anything else but quotes, backslashes and control
characters between double quotes. `[n]` is one element of an array, `[]` all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from storage.filter_tree import Path

_KEY: Final = r'(?:[\w-]+|"[^"\\\x00-\x1f]*")'
_PATH: Final = re.compile(rf"{_KEY}(?:\.{_KEY}|\[\d{{0,9}}\])*")
_STEP: Final = re.compile(rf"\.?({_KEY})|\[(\d*)\]")


def parse_path(text: str) -> Path | None:
    """Return the steps of a path, or None if it is not one."""
    if not _PATH.fullmatch(text):
        return None
    return tuple(_step(found) for found in _STEP.finditer(text))


def values_at(payload: Mapping[str, Any], path: Path) -> Iterator[Any]:
    """Yield the values that a path leads to, arrays as they are."""
    values: Iterator[Any] = iter((payload,))
    for step in path:
        values = _follow(values, step)
    return values


def _step(found: re.Match[str]) -> str | int | None:
    key, index = found.groups()
    if key is not None:
        return key.strip('"')
    return int(index) if index else None


def _follow(values: Iterator[Any], step: str | int | None) -> Iterator[Any]:
    for value in values:
        if isinstance(step, str):
            if isinstance(value, Mapping) and step in value:
                yield value[step]
        elif isinstance(value, list):
            if step is None:
                yield from value
            elif step < len(value):
                yield value[step]
