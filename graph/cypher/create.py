"""CREATE and MERGE.

A relationship that is created becomes an ordered hyperedge of two members; one to several nodes
becomes a hyperedge with the roles source and target. MERGE looks for its whole pattern and, when
nothing matches, creates all of it that is not bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graph.budget import Exhausted
from graph.cypher import tree
from graph.cypher.assign import Assignments
from graph.cypher.elements import path_along
from graph.cypher.expressions import compiled, parameter
from graph.cypher.match import Matcher, Operator, Rows, check_names
from graph.cypher.plan import Chain, Naming, Node, Relationship
from graph.cypher.runtime import Runtime, held
from graph.cypher.scope import Scope
from graph.cypher.stage import node_in
from graph.cypher.stored_values import as_map, packed, parted
from graph.cypher.values import Evaluate, Row
from graph.cypher.writer import Writer
from graph.errors import BadQuery
from graph.model import EdgeWrite, Role

Make = Callable[[Row], None]


def create_clause(
    clause: tree.Create, scope: Scope, run: Runtime, writer: Writer
) -> tuple[Operator, Scope]:
    """Compile CREATE."""
    naming = Naming(lambda name: parameter(name, run))
    chains = [naming.chain(part) for part in clause.parts]
    check_names(chains, scope)
    names = dict.fromkeys(name for chain in chains for name in chain.names())
    new = [name for name in names if name not in scope]
    inner = scope.extended(new)
    known = dict.fromkeys(scope.names)
    makes = [
        _Creation(part, chain, inner, run, writer).steps(known)
        for part, chain in zip(clause.parts, chains, strict=True)
    ]

    def operator(rows: Rows) -> Rows:
        made = []
        for row in held(rows, run):
            wide = [*row, *((None,) * len(new))]
            for steps in makes:
                for step in steps:
                    step(wide)
            made.append(wide)
        yield from made

    return operator, inner


def merge_clause(
    clause: tree.Merge, scope: Scope, run: Runtime, writer: Writer
) -> tuple[Operator, Scope]:
    """Compile MERGE."""
    naming = Naming(lambda name: parameter(name, run))
    chain = naming.chain(clause.part)
    matcher = Matcher([chain], naming.conditions, scope, run)
    creation = _Creation(clause.part, chain, matcher.scope, run, writer, merging=True)
    steps = creation.steps(dict.fromkeys(scope.names))
    on_create = Assignments(clause.on_create, matcher.scope, run, writer)
    on_match = Assignments(clause.on_match, matcher.scope, run, writer)

    def operator(rows: Rows) -> Rows:
        made = []
        for row in held(rows, run):
            creation.check(row)
            found = _found(matcher, row, run)
            for each in found:
                on_match.carry_out(each)
            if not found:
                wide = matcher.unmatched(row)
                for step in steps:
                    step(wide)
                on_create.carry_out(wide)
                found = [wide]
            made += found
        yield from made

    return operator, matcher.scope


def _found(matcher: Matcher, row: Row, run: Runtime) -> list[Row]:
    try:
        return list(matcher.rows(row))
    except Exhausted as error:
        run.stop(error.by)
        raise AssertionError("a query that writes is refused when it is cut") from error


class _Creation:
    """Compiles one part of a pattern into steps that make it."""

    def __init__(
        self,
        part: tree.Part,
        chain: Chain,
        scope: Scope,
        run: Runtime,
        writer: Writer,
        *,
        merging: bool = False,
    ) -> None:
        self._part, self._chain, self._scope = part, chain, scope
        self._run, self._writer, self._merging = run, writer, merging
        self._joined: list[int] = []

    def steps(self, known: dict[str, None]) -> list[Make]:
        """Return the steps; `known` are the names that are bound, and grows."""
        chain, part = self._chain, self._part
        made = [
            self._node(node, pattern, known)
            for node, pattern in zip(
                (*chain.nodes, *chain.fan), (*part.nodes, *part.fan), strict=True
            )
        ]
        steps = [step for step in made if step is not None]
        for at, each in enumerate(chain.relationships):
            steps.append(self._relationship(at, each, known))
        if chain.path is not None:
            steps.append(self._trace(chain.path))
        return steps

    def check(self, row: Row) -> None:
        """Refuse a row in which a node that is to be joined is null."""
        for position in self._joined:
            if position < len(row) and row[position] is None:
                raise BadQuery("null cannot be joined by a relationship")

    def _node(self, node: Node, pattern: tree.NodePattern, known: dict[str, None]) -> Make | None:
        position = self._scope.position(node.name)
        if node.name in known:
            if not self._merging and (node.labels or pattern.properties is not None):
                raise BadQuery(f"the variable {node.name} is defined already")
            if len(self._chain.nodes) + len(self._chain.fan) == 1:
                raise BadQuery(f"the variable {node.name} is defined already")
            self._joined.append(position)
            return None
        known[node.name] = None
        properties = self._properties(pattern.properties)

        def make(row: Row) -> None:
            given = dict(properties(row))
            name = given.pop("id", None)
            row[position] = self._writer.create_node(name, node.labels, packed(given))
            self._writer.counts["properties_set"] += len(given)

        return make

    def _relationship(self, at: int, relationship: Relationship, known: dict[str, None]) -> Make:
        pattern, fan = relationship.pattern, self._chain.fan
        if relationship.name in known:
            raise BadQuery(f"the variable {relationship.name} is defined already")
        known[relationship.name] = None
        if len(pattern.types) != 1 or pattern.hops is not None:
            raise BadQuery("a relationship is created with one type, and without a length")
        if pattern.direction == "both" and not self._merging:
            raise BadQuery("a relationship is created with a direction")
        fans = bool(fan) and at == len(self._chain.relationships) - 1
        ends = [self._chain.nodes[at], *(fan if fans else (self._chain.nodes[at + 1],))]
        if pattern.direction == "in":
            ends.reverse()
        places = [self._scope.position(node.name) for node in ends]
        roles: tuple[Role, ...] = (("source", 1), ("target", len(fan))) if fans else ()
        position = self._scope.position(relationship.name)
        properties = self._properties(pattern.properties)

        def make(row: Row) -> None:
            members = tuple(self._member(row[place]) for place in places)
            given = dict(properties(row))
            name = given.pop("id", None)
            fields, rest = parted(given)
            edge = EdgeWrite("", pattern.types[0], members, roles, packed(rest), **fields)
            entry = self._writer.create_edge(name, edge)
            self._writer.counts["properties_set"] += len(given)
            row[position] = entry if fans else entry.arcs[0]

        return make

    def _member(self, value: Any) -> str:
        if value is None:
            raise BadQuery("null cannot be joined by a relationship")
        node = self._run.current(node_in(value))
        assert node is not None, "current refuses what is gone"
        return str(node.id)

    def _trace(self, path: str) -> Make:
        position = self._scope.position(path)
        first = self._scope.position(self._chain.nodes[0].name)
        places = [self._scope.position(each.name) for each in self._chain.relationships]

        def make(row: Row) -> None:
            row[position] = path_along(self._run, row[first], [row[place] for place in places])

        return make

    def _properties(self, expr: tree.Expr | None) -> Callable[[Row], dict[str, Any]]:
        value: Evaluate = compiled(expr or tree.MapOf(()), self._scope, self._run)

        def properties(row: Row) -> dict[str, Any]:
            given = dict(as_map(value(row)))
            if self._merging and None in given.values():
                raise BadQuery("MERGE cannot look for a property that is null")
            return {key: each for key, each in given.items() if each is not None}

        return properties
