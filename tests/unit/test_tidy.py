"""What the linters cannot see, checked on the source itself.

Cores are the modules that the import contract in pyproject.toml calls pure: what they decide
must not depend on a process, so neither the builtin hash of a string nor the order of a set may
occur in them.
"""

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "graph", "storage")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
BANNED_WORDS = ("pickle", "eval(")
VAGUE_NAMES = re.compile(r"(?i)(util|helper|manager|service)s?(_|$)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def tree(path):
    return ast.parse(path.read_text())


def cores():
    """Return the files of the modules that the contract calls pure."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (modules,) = (c["source_modules"] for c in contracts if c["name"] == "Cores are pure")
    places = [ROOT / module.replace(".", "/") for module in modules]
    files = [
        file
        for place in places
        for file in (place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")])
    ]
    assert files
    return sorted(files)


def calls(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def places(path, nodes):
    return [f"{path.relative_to(ROOT)}:{node.lineno}" for node in nodes]


@pytest.mark.parametrize("path", cores(), ids=lambda path: path.stem)
def test_cores_do_not_hash(path):
    """The builtin hash of a string differs between processes, so no core calls it."""
    assert places(path, [node for node in ast.walk(tree(path)) if calls(node, "hash")]) == []


@pytest.mark.parametrize("path", cores(), ids=lambda path: path.stem)
def test_cores_do_not_iterate_sets(path):
    """A set has no order that two replicas share, so no core walks through one as it is."""
    loops = (ast.For, ast.comprehension)
    walked = [node.iter for node in ast.walk(tree(path)) if isinstance(node, loops)]
    sets = [
        node
        for node in walked
        if isinstance(node, ast.Set | ast.SetComp) or calls(node, "set") or calls(node, "frozenset")
    ]

    assert places(path, sets) == []


def test_banned_words():
    """Bytes that cross a process have a schema, and no text becomes code."""
    found = [(path, word) for path in SOURCES for word in BANNED_WORDS if word in path.read_text()]

    assert found == []


def test_modules_are_short():
    """A module that outgrows its limit has a second subject."""
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}

    assert {path: n for path, n in lengths.items() if n > MODULE_LINES_MAX} == {}


def test_functions_are_short():
    """No function is longer than a screen."""
    long = [
        (path.name, node.name)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, FUNCTIONS)
        and node.end_lineno
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]

    assert long == []


def test_names_say_what_they_are():
    """No module and no class is named after nothing in particular."""
    names = [path.stem for path in SOURCES]
    for path in SOURCES:
        names += [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]

    assert [name for name in names if VAGUE_NAMES.search(name)] == []


def test_no_test_is_empty():
    """Each test says in a sentence what holds, and checks it or has a function beside it do so."""
    empty = []
    for path in TESTS:
        functions = [node for node in ast.walk(tree(path)) if isinstance(node, FUNCTIONS)]
        checkers = {node.name for node in functions if any(map(_checks, ast.walk(node)))}
        for node in functions:
            if node.name.startswith("test_"):
                called = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                if not ast.get_docstring(node) or not checkers & (called | {node.name}):
                    empty.append(f"{path.name}:{node.name}")

    assert empty == []


def _checks(node):
    told = isinstance(node, ast.Attribute) and (node.attr == "raises" or "assert_" in node.attr)
    return told or isinstance(node, ast.Assert)


def test_test_names_are_unique():
    """Two test files of one name would hide each other."""
    names = [path.name for path in TESTS]

    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_ours_alone(package):
    """No installed distribution but ours provides a package of this name."""
    assert set(packages_distributions().get(package, [])) == {"recollect"}
