"""In which order the patterns of a MATCH are walked.

Each part starts where the fewest nodes have to be looked at: at a variable that is bound already,
a node by its id, an index, a label, or everything, in this order. From there it grows at both
ends. A condition is checked as soon as the last variable that it names is bound; a property map
in a pattern is nothing but such conditions, so `(n {id: $x})` and `WHERE n.id = $x` are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from graph.cypher import tree
from graph.cypher.scope import HIDDEN
from graph.cypher.tree import Expr
from graph.cypher.tree_walks import free_names
from graph.errors import BadQuery

AccessKind = Literal["bound", "relationship", "id", "index", "range", "label", "all"]
_COSTS: Final[dict[AccessKind, int]] = {
    "bound": 0,
    "relationship": 0,
    "id": 1,
    "index": 2,
    "range": 4,
    "label": 5,
    "all": 6,
}
_MIRRORED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Node(NamedTuple):
    """A node of a pattern: every one has a name here, if a hidden one."""

    name: str
    labels: tuple[str, ...]


class Relationship(NamedTuple):
    """A relationship of a pattern. `each` are conditions on every arc of a variable length,
    which the variable `each_name` stands for."""

    name: str
    pattern: tree.RelationshipPattern
    each_name: str = ""
    each: tuple[Expr, ...] = ()


class Chain(NamedTuple):
    """A part of a pattern with everything named; `fan` are the targets of the last
    relationship if that leads to several."""

    path: str | None
    nodes: tuple[Node, ...]
    relationships: tuple[Relationship, ...]
    fan: tuple[Node, ...]

    def names(self) -> list[str]:
        """Return all names that matching binds, the path's last."""
        nodes = [node.name for node in (*self.nodes, *self.fan)]
        names = nodes + [each.name for each in self.relationships]
        return names if self.path is None else [*names, self.path]


class Access(NamedTuple):
    """How the candidates for a node are found. `values` is one expression or, with `many`, a
    list of what may be equal; `low` and `high` bound a range."""

    kind: AccessKind
    label: str = ""
    key: str = ""
    values: Expr | None = None
    many: bool = False
    low: Expr | None = None
    high: Expr | None = None
    relationship: str = ""


class Start(NamedTuple):
    """Binds a first node."""

    node: Node
    access: Access
    checks: tuple[Expr, ...]


class Hop(NamedTuple):
    """Goes from a bound node along a relationship; `forward`: as the pattern was written."""

    near: str
    relationship: Relationship
    far: Node
    forward: bool
    far_bound: bool
    relationship_bound: bool
    needed: bool
    checks: tuple[Expr, ...]


class Fan(NamedTuple):
    """Finds hyperedges that lead from `source` to all `targets`; `entry` is the one of these
    nodes from which the search begins."""

    source: Node
    relationship: Relationship
    targets: tuple[Node, ...]
    entry: str
    bound: tuple[str, ...]
    checks: tuple[Expr, ...]


class Trace(NamedTuple):
    """Binds a path variable."""

    chain: Chain
    checks: tuple[Expr, ...]


Step = Start | Hop | Fan | Trace
Indexed = Callable[[str, str], bool]
"""Whether a label and a property have an index."""


class Naming:
    """Names what a query leaves anonymous, and turns property maps into conditions."""

    def __init__(self, given: Callable[[str], object]) -> None:
        self._given = given
        """Returns the value of a parameter, for `(n $properties)`."""
        self._count = 0
        self.conditions: list[Expr] = []

    def chain(self, part: tree.Part) -> Chain:
        """Return a part with everything named."""
        nodes, fan = (tuple(self._node(node) for node in group) for group in (part.nodes, part.fan))
        relationships = tuple(self._relationship(each) for each in part.relationships)
        return Chain(part.path, nodes, relationships, fan)

    def _fresh(self) -> str:
        self._count += 1
        return f"{HIDDEN}{self._count}"

    def _node(self, pattern: tree.NodePattern) -> Node:
        name = pattern.name or self._fresh()
        self.conditions += self._equalities(name, pattern.properties)
        return Node(name, pattern.labels)

    def _relationship(self, pattern: tree.RelationshipPattern) -> Relationship:
        name = pattern.name or self._fresh()
        if pattern.hops is None:
            self.conditions += self._equalities(name, pattern.properties)
            return Relationship(name, pattern)
        each = self._fresh()
        conditions = self._equalities(each, pattern.properties)
        return Relationship(name, pattern, each, tuple(conditions))

    def _equalities(self, name: str, properties: Expr | None) -> list[Expr]:
        entries: list[tuple[str, Expr]] = []
        if isinstance(properties, tree.MapOf):
            entries = list(properties.items)
        elif isinstance(properties, tree.Parameter):
            given = self._given(properties.name)
            if not isinstance(given, dict):
                raise BadQuery(f"${properties.name} stands for properties, so it has to be a map")
            entries = [(key, tree.Index(properties, tree.constant(key))) for key in given]
        base = tree.Variable(name)
        return [tree.Compare(tree.Property(base, key), (("=", value),)) for key, value in entries]


def plan(
    chains: Sequence[Chain], conditions: Iterable[Expr], bound: Iterable[str], indexed: Indexed
) -> list[Step]:
    """Return the steps that match all chains."""
    planner = _Planner(conditions, bound, indexed)
    waiting = list(chains)
    while waiting:
        chain, node = min(
            ((chain, node) for chain in waiting for node in (*chain.nodes, *chain.fan)),
            key=lambda pair: planner.cost(*pair),
        )
        waiting.remove(chain)
        planner.walk(chain, node)
    planner.finish()
    assert sum(isinstance(step, Start) for step in planner.steps) == len(chains), "all are walked"
    return planner.steps


class _Planner:
    def __init__(self, conditions: Iterable[Expr], bound: Iterable[str], indexed: Indexed) -> None:
        self.steps: list[Step] = []
        self._waiting = [(condition, free_names(condition)) for condition in conditions]
        self._said: dict[str, list[_Said]] = {}
        for condition, _ in self._waiting:
            for name, said in _comparisons(condition):
                self._said.setdefault(name, []).append(said)
        self._bound = dict.fromkeys(bound)
        self._indexed = indexed

    def cost(self, chain: Chain, node: Node) -> tuple[int, int]:
        """Return what is least for the best start; between equals fewer labels lose."""
        return _COSTS[self._access(chain, node).kind], -len(node.labels)

    def walk(self, chain: Chain, start: Node) -> None:
        access = self._access(chain, start)
        self._bind(start.name)
        self.steps.append(Start(start, access, self._due()))
        assert start in chain.nodes or start in chain.fan, "a chain is walked from one of its nodes"
        at = chain.nodes.index(start) if start in chain.nodes else len(chain.nodes)
        first = last = at
        hops = chain.relationships[: len(chain.nodes) - 1]
        if at == len(chain.nodes):
            self._fan(chain, start.name)
            first = last = len(chain.nodes) - 1
        while first > 0 or last < len(chain.nodes) - 1:
            if last < len(chain.nodes) - 1 and not (first > 0 and self._binds(chain, first - 1)):
                self._hop(chain, hops[last], last, last + 1)
                last += 1
            else:
                self._hop(chain, hops[first - 1], first, first - 1)
                first -= 1
        if chain.fan and at < len(chain.nodes):
            self._fan(chain, chain.nodes[-1].name)
        if chain.path is not None:
            self._bind(chain.path)
            self.steps.append(Trace(chain, self._due()))

    def finish(self) -> None:
        """Refuse conditions on what nobody binds; those on nothing at all go first."""
        for _, names in self._waiting:
            unknown = [name for name in names if name not in self._bound]
            assert unknown, "a condition on what is bound has been placed"
            raise BadQuery(f"the variable {unknown[0]} is not defined here")

    def _binds(self, chain: Chain, at: int) -> bool:
        return chain.nodes[at].name in self._bound

    def _bind(self, *names: str) -> None:
        self._bound |= dict.fromkeys(names)

    def _due(self) -> tuple[Expr, ...]:
        """Return the conditions that can be checked now, and check none twice."""
        due = [each for each, names in self._waiting if names.keys() <= self._bound.keys()]
        waiting = (pair for pair in self._waiting if not pair[1].keys() <= self._bound.keys())
        self._waiting = list(waiting)
        return tuple(due)

    def _hop(self, chain: Chain, relationship: Relationship, near: int, far: int) -> None:
        target = chain.nodes[far]
        bound = target.name in self._bound, relationship.name in self._bound
        if bound[1] and relationship.pattern.hops is not None:
            raise BadQuery(f"{relationship.name} is bound already and cannot have a length here")
        for name in free_names(tree.ListOf(relationship.each), (relationship.each_name,)):
            if name not in self._bound:
                raise BadQuery(f"{name} is not known yet where {relationship.name} needs it")
        needed = chain.path is not None or not relationship.name.startswith(HIDDEN)
        self._bind(target.name, relationship.name)
        self.steps.append(
            Hop(
                chain.nodes[near].name,
                relationship,
                target,
                far > near,
                *bound,
                needed,
                self._due(),
            )
        )

    def _fan(self, chain: Chain, entry: str) -> None:
        source, relationship = chain.nodes[-1], chain.relationships[-1]
        names = (source.name, relationship.name, *(node.name for node in chain.fan))
        bound = tuple(name for name in names if name in self._bound)
        self._bind(*names)
        self.steps.append(Fan(source, relationship, chain.fan, entry, bound, self._due()))

    # -- where to start -----------------------------------------------------------------------

    def _access(self, chain: Chain, node: Node) -> Access:
        if node.name in self._bound:
            return Access("bound")
        for at, relationship in enumerate(chain.relationships[: len(chain.nodes) - 1]):
            if node in chain.nodes[at : at + 2] and relationship.name in self._bound:
                return Access("relationship", relationship=relationship.name)
        lookups = self._lookups(node)
        found = [each for each in lookups if each.kind != "range"]
        ranges = [each for each in lookups if each.kind == "range"]
        if found:
            return min(found, key=lambda access: _COSTS[access.kind] + access.many)
        if ranges:
            return _joined(ranges)
        return Access("label", node.labels[0]) if node.labels else Access("all")

    def _lookups(self, node: Node) -> list[Access]:
        found = []
        for said in self._said.get(node.name, ()):
            if said.needs.keys() <= self._bound.keys():
                found += self._lookup(node, said.key, said.op, said.value)
        return found

    def _lookup(self, node: Node, key: str, op: str, value: Expr) -> list[Access]:
        if key == "id":
            return [Access("id", "", key, value, op == "IN")] if op in ("=", "IN") else []
        label = next((label for label in node.labels if self._indexed(label, key)), None)
        if label is None:
            return []
        if op in ("=", "IN"):
            return [Access("index", label, key, value, op == "IN")]
        low, high = (value, None) if op in (">", ">=") else (None, value)
        return [Access("range", label, key, low=low, high=high)]


class _Said(NamedTuple):
    """What a condition says about a node's property, and the variables that this needs."""

    key: str
    op: str
    value: Expr
    needs: dict[str, None]


def _comparisons(condition: Expr) -> Iterator[tuple[str, _Said]]:
    """Yield the node's name with what a condition says about it."""
    if isinstance(condition, tree.Test) and condition.op == "IN":
        yield from _about(condition.left, "IN", condition.right)
    elif isinstance(condition, tree.Compare):
        left = condition.first
        for op, right in condition.rest:
            if op in _MIRRORED:
                yield from _about(left, op, right)
                yield from _about(right, _MIRRORED[op], left)
            left = right


def _about(expr: Expr, op: str, value: Expr) -> Iterator[tuple[str, _Said]]:
    if isinstance(expr, tree.Property) and isinstance(expr.base, tree.Variable):
        yield expr.base.name, _Said(expr.key, op, value, free_names(value))


def _joined(ranges: Sequence[Access]) -> Access:
    """Return one range from the bounds of the same property."""
    first = ranges[0]
    same = [each for each in ranges if (each.label, each.key) == (first.label, first.key)]
    low = next((each.low for each in same if each.low is not None), None)
    high = next((each.high for each in same if each.high is not None), None)
    return first._replace(low=low, high=high)
