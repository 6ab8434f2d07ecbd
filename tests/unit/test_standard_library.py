"""The graph of a folder of Python sources."""

import pytest

from cluster.standard_library import read_library

PACKAGE = '''
"""The package.

More of it.
"""
import sys, os.path
from . import part
from .part import Base as Ground

class Child(Ground, part.Other, dict):
    """A child."""
    class Inner(Ground): pass
    def method(self):
        def hidden(): pass

if sys:
    def once(): return 1
else:
    def once(): return 2

def part(): pass
'''
PART = """
from pack import Child
import pack.deep.leaf as leaf
class Base: pass
class Other(Base[int]): pass
class Round(Child, leaf.Unknown, leaf.make()): pass
def late():
    import pack.deep
"""


@pytest.fixture
def library(tmp_path):
    files = {
        "pack/__init__.py": PACKAGE,
        "pack/part.py": PART,
        "pack/deep/__init__.py": "from ..part import *\nfrom ...beyond import x\n",
        "pack/deep/leaf.py": "",
        "pack/test/test_it.py": "class Skipped: pass\n",
        "broken.py": "def (\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return read_library(tmp_path)


def edges(library, label):
    return [edge["id"] for edge in library.edges if edge["label"] == label]


def properties(library, name):
    (node,) = (node for node in library.nodes if node["id"] == name)
    return node["properties"]


def test_nodes(library):
    """Modules, classes and functions are nodes, each name once; a module keeps its name."""
    assert {node["id"]: node["labels"][0] for node in library.nodes} == {
        "pack": "Module",
        "pack.part": "Module",
        "pack.deep": "Module",
        "pack.deep.leaf": "Module",
        "pack.Child": "Class",
        "pack.Child.Inner": "Class",
        "pack.Child.method": "Function",
        "pack.once": "Function",
        "pack.part.Base": "Class",
        "pack.part.Other": "Class",
        "pack.part.Round": "Class",
        "pack.part.late": "Function",
    }


def test_properties(library):
    """A node knows its names, the first line of its docstring, and how long it is."""
    assert properties(library, "pack.Child") == {
        "name": "Child",
        "qualified_name": "pack.Child",
        "summary": "A child.",
        "lines": 5,
    }
    assert properties(library, "pack")["summary"] == "The package."
    assert properties(library, "pack")["lines"] == PACKAGE.count("\n")
    assert properties(library, "pack.part")["name"] == "pack.part"


def test_only_summaries_are_embedded(library):
    """What says nothing about itself gets no vector."""
    texts = {node["id"]: node["text"] for node in library.nodes if "text" in node}

    assert texts == {"pack": "The package.", "pack.Child": "A child."}


def test_imports(library):
    """Imports lead to modules of the folder, relative ones too, wherever they stand."""
    assert edges(library, "IMPORTS") == [
        "pack IMPORTS pack.part",
        "pack.deep IMPORTS pack.part",
        "pack.part IMPORTS pack",
        "pack.part IMPORTS pack.deep.leaf",
        "pack.part IMPORTS pack.deep",
    ]


def test_bases(library):
    """A base is found by what the module calls it, through modules that only import it."""
    assert edges(library, "INHERITS") == [
        "pack.Child INHERITS pack.part.Base",
        "pack.Child INHERITS pack.part.Other",
        "pack.Child.Inner INHERITS pack.part.Base",
        "pack.part.Other INHERITS pack.part.Base",
        "pack.part.Round INHERITS pack.Child",
    ]


def test_definitions(library):
    """What a module or a class defines is one hyperedge by role."""
    found = {edge["id"]: edge["roles"] for edge in library.edges if "roles" in edge}

    assert found["pack DEFINES"] == {"module": ["pack"], "defines": ["pack.Child", "pack.once"]}
    assert found["pack.Child DEFINES"] == {
        "class": ["pack.Child"],
        "defines": ["pack.Child.Inner", "pack.Child.method"],
    }
    assert "pack.deep.leaf DEFINES" not in found


def test_many_definitions_are_split(tmp_path):
    """A hyperedge has no more members than one may have."""
    (tmp_path / "wide.py").write_text("".join(f"def f{n}(): pass\n" for n in range(600)))
    parts = [edge for edge in read_library(tmp_path).edges if edge["label"] == "DEFINES"]

    assert [edge["id"] for edge in parts] == [
        "wide DEFINES",
        "wide DEFINES 2",
        "wide DEFINES 3",
    ]
    assert [len(edge["roles"]["defines"]) for edge in parts] == [255, 255, 90]


def test_text_that_cannot_be_stored(tmp_path):
    """A docstring's NULs and lone surrogates are left out."""
    (tmp_path / "odd.py").write_text('"""a\\0b\\ud800c"""\n')
    (node,) = read_library(tmp_path).nodes

    assert node["properties"]["summary"] == "abc"


def test_every_end_exists(library):
    """No edge leads to a node that is not there."""
    names = {node["id"] for node in library.nodes}
    groups = [
        group
        for edge in library.edges
        for group in edge.get("roles", {"members": edge.get("members")}).values()
    ]

    assert {name for group in groups for name in group} <= names
