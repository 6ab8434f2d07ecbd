"""Real texts that every machine with Python has: the docstrings of its standard library.

The sources are parsed, never imported, so nothing of them runs. A text that occurs twice is
taken once, and tests are left out: what remains is prose written by people about code.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

TEXT_LENGTH_MAX: Final = 1000
WORDS_MIN: Final = 3
SKIPPED_FOLDERS: Final = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "turtledemo"}
)

Kind = Literal["module", "class", "function", "method"]


@dataclass(frozen=True, slots=True)
class Docstring:
    """One documented thing. `name` is qualified inside its module; empty for the module."""

    module: str
    name: str
    kind: Kind
    text: str

    @property
    def title(self) -> str:
        """Return the dotted name by which a programmer knows it."""
        return f"{self.module}.{self.name}" if self.name else self.module


def standard_library() -> Path:
    """Return the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(root: Path) -> list[Path]:
    """Return the Python files under `root` in order, without tests and installed packages."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)
    )


def docstrings(root: Path, files: list[Path]) -> Iterator[list[Docstring]]:
    """Yield the new texts of each file, in order; a file that does not parse has none."""
    seen: set[str] = set()
    for path in files:
        fresh = []
        for found in _in_file(path, module_name(path.relative_to(root))):
            if found.text not in seen and _is_prose(found.text):
                seen.add(found.text)
                fresh.append(found)
        yield fresh


def opening(text: str) -> str:
    """Return the first paragraphs of a text, as many as fit; a long first one is cut at a word."""
    kept = ""
    for paragraph in text.split("\n\n"):
        longer = f"{kept}\n\n{paragraph}" if kept else paragraph
        if len(longer) > TEXT_LENGTH_MAX:
            break
        kept = longer
    return kept or text[:TEXT_LENGTH_MAX].rsplit(maxsplit=1)[0]


def _is_prose(text: str) -> bool:
    """Say whether a text has words enough, and nothing that no database takes as text."""
    storable = "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)
    return storable and len(text.split()) >= WORDS_MIN


def syntax_tree(path: Path) -> ast.Module | None:
    """Return what a file says, without running it; None when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None


def module_name(path: Path) -> str:
    """Return the dotted name of the module in a file, its path relative to the library."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _in_file(path: Path, module: str) -> Iterator[Docstring]:
    tree = syntax_tree(path)
    if tree is not None:
        yield from _of(tree, module, "", "module")
        yield from _within(tree, module, prefix="", in_class=False)


def _within(
    scope: ast.Module | ast.ClassDef, module: str, *, prefix: str, in_class: bool
) -> Iterator[Docstring]:
    for node in scope.body:
        if isinstance(node, ast.ClassDef):
            yield from _of(node, module, prefix + node.name, "class")
            yield from _within(node, module, prefix=f"{prefix}{node.name}.", in_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind: Kind = "method" if in_class else "function"
            yield from _of(node, module, prefix + node.name, kind)


def _of(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    module: str,
    name: str,
    kind: Kind,
) -> Iterator[Docstring]:
    text = (ast.get_docstring(node) or "").strip()
    if text:
        yield Docstring(module, name, kind, opening(text))
