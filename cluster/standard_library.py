"""Python sources as a graph: modules, classes and functions, and how they hang together.

    IMPORTS   module -> module, wherever in the file the import stands
    DEFINES   one module or class -> all that it defines (split when there are very many)
    INHERITS  class -> class

A node's id is its dotted name: `json`, `json.decoder.JSONDecoder`. What a function defines inside
itself is its own affair and left out. A name that is defined twice, as by an `if`, is one node, the
first; where a definition has a module's name, the module keeps it. Imports and bases count when
they lead to something that the folder has: `sys` has no source, and what a call returns is not
known.

The sources are parsed, never imported. The same folder always gives the same graph.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.demo_corpus import module_name, source_files, syntax_tree
from graph.model import MEMBERS_MAX

SUMMARY_LENGTH_MAX: Final = 300

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Element = dict[str, Any]


@dataclass(frozen=True)
class Library:
    """Nodes and edges as the API takes them."""

    nodes: list[Element]
    edges: list[Element]


@dataclass
class _Module:
    """A parsed file. `package`: what its relative imports start from; `names`: what its imports
    call things."""

    name: str
    package: str
    tree: ast.Module
    lines: int
    names: dict[str, str] = field(default_factory=dict)


def read_library(root: Path, *, with_texts: bool = True) -> Library:
    """Return the graph of a folder of sources; `with_texts`: summaries are to be embedded."""
    modules = {module.name: module for module in _modules(root)}
    reading = _Reading(modules)
    for module in modules.values():
        reading.add_definitions(module)
    for module in modules.values():
        reading.add_imports(module)
    for module in modules.values():
        reading.add_bases(module)
    nodes = list(reading.nodes.values())
    if with_texts:
        for node in nodes:
            if node["properties"]["summary"]:
                node["text"] = node["properties"]["summary"]
    return Library(nodes, list(reading.edges.values()))


def _modules(root: Path) -> Iterator[_Module]:
    for path in source_files(root):
        tree = syntax_tree(path)
        if tree is not None:
            name = module_name(path.relative_to(root))
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            yield _Module(name, package, tree, path.read_bytes().count(b"\n"))


class _Reading:
    """What was found so far. Ids are keys, so that nothing is there twice."""

    def __init__(self, modules: dict[str, _Module]) -> None:
        self.nodes: dict[str, Element] = {}
        self.edges: dict[str, Element] = {}
        self._modules = modules
        for module in modules.values():
            self._add_node(module.name, "Module", module.tree, module.lines)

    def add_definitions(self, module: _Module) -> None:
        """Add what a module defines, and what its classes do."""
        self._define(module.name, "module", module.tree)

    def add_imports(self, module: _Module) -> None:
        """Add the modules that a module imports, and remember under which names."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._import(module, alias.name, node.lineno)
                    known = alias.name if alias.asname else alias.name.partition(".")[0]
                    module.names[alias.asname or known] = known
            elif isinstance(node, ast.ImportFrom):
                origin = _origin(module, node)
                for alias in node.names:
                    whole = f"{origin}.{alias.name}"
                    target = whole if whole in self._modules else origin
                    self._import(module, target, node.lineno)
                    module.names[alias.asname or alias.name] = whole

    def add_bases(self, module: _Module) -> None:
        """Add what the classes of a module inherit from."""
        for name, definition in _definitions(module.name, module.tree):
            if isinstance(definition, ast.ClassDef) and self._is_class(name):
                for base in definition.bases:
                    target = self._resolved(module, name, ast.unparse(base))
                    if target is not None and target != name:
                        self._join("INHERITS", name, target, {})

    def _define(self, owner: str, role: str, scope: ast.Module | ast.ClassDef) -> None:
        members = []
        for definition in _own_definitions(scope):
            name = f"{owner}.{definition.name}"
            if name in self.nodes:
                continue
            label = "Class" if isinstance(definition, ast.ClassDef) else "Function"
            self._add_node(name, label, definition, _line_count(definition))
            members.append(name)
            if isinstance(definition, ast.ClassDef):
                self._define(name, "class", definition)
        for start in range(0, len(members), MEMBERS_MAX - 1):
            part = start // (MEMBERS_MAX - 1)
            edge = f"{owner} DEFINES" + (f" {part + 1}" if part else "")
            roles = {role: [owner], "defines": members[start : start + MEMBERS_MAX - 1]}
            self.edges[edge] = {"id": edge, "label": "DEFINES", "roles": roles}

    def _add_node(self, name: str, label: str, tree: ast.Module | Definition, lines: int) -> None:
        self.nodes[name] = {
            "id": name,
            "labels": [label],
            "properties": {
                "name": name if label == "Module" else name.rpartition(".")[2],
                "qualified_name": name,
                "summary": _summary(tree),
                "lines": lines,
            },
        }

    def _import(self, module: _Module, target: str, line: int) -> None:
        """Add an import of a module, or of the nearest package above that the folder has."""
        while target and target not in self._modules:
            target = target.rpartition(".")[0]
        if target and target != module.name:
            self._join("IMPORTS", module.name, target, {"line": line})

    def _join(self, label: str, source: str, target: str, properties: Element) -> None:
        name = f"{source} {label} {target}"
        if name not in self.edges:
            self.edges[name] = {
                "id": name,
                "label": label,
                "members": [source, target],
                "properties": properties,
            }

    def _is_class(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name]["labels"] == ["Class"]

    def _resolved(self, module: _Module, user: str, text: str) -> str | None:
        """Return the class that a class of a module means by a dotted name."""
        first, dot, rest = text.partition("[")[0].partition(".")
        scopes = [user.rpartition(".")[0], module.name]
        places = [*(f"{scope}.{first}" for scope in scopes), module.names.get(first, "")]
        for place in places:
            found = self._followed(f"{place}{dot}{rest}")
            if found is not None:
                return found
        return None

    def _followed(self, name: str, steps: int = 4) -> str | None:
        """Return the class of a name, through modules that only import it."""
        if self._is_class(name):
            return name
        owner, _, last = name.rpartition(".")
        if not steps or owner not in self._modules or last not in self._modules[owner].names:
            return None
        return self._followed(self._modules[owner].names[last], steps - 1)


def _origin(module: _Module, node: ast.ImportFrom) -> str:
    """Return the module that `from ... import` names."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    above = parts[: len(parts) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _own_definitions(scope: ast.AST) -> Iterator[Definition]:
    """Yield what a scope itself defines, also under `if` and `try`, in order."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, Definition):
            yield node
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _own_definitions(node)


def _definitions(owner: str, scope: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    """Yield everything that a scope and its classes define, with its dotted name."""
    for definition in _own_definitions(scope):
        name = f"{owner}.{definition.name}"
        yield name, definition
        if isinstance(definition, ast.ClassDef):
            yield from _definitions(name, definition)


def _line_count(definition: Definition) -> int:
    assert definition.end_lineno is not None, "it was parsed from a file"
    return definition.end_lineno - definition.lineno + 1


def _summary(tree: ast.Module | Definition) -> str:
    """Return the first line of a docstring."""
    text = (ast.get_docstring(tree) or "").strip().partition("\n")[0].strip()
    plain = "".join(sign for sign in text if sign != "\0" and not "\ud800" <= sign <= "\udfff")
    return plain[:SUMMARY_LENGTH_MAX]
