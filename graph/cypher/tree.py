"""A query as a tree of immutable values: clauses, patterns and expressions.

Two expressions that were written alike are equal: that is how grouping keys are recognised inside
other expressions. Chains of one operator are flat, so a long sum is not a deep one.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

AGGREGATES: Final = ("count", "sum", "avg", "min", "max", "collect")


class Tree(msgspec.Struct, frozen=True):
    """Anything in a query."""


class Expr(Tree, frozen=True):
    """What has a value."""


class Constant(Expr, frozen=True):
    """A number, string, boolean or null; see `constant`. `kind` keeps 1, 1.0 and true apart."""

    value: Any
    kind: str


def constant(value: Any) -> Constant:
    """Return the expression that is a value."""
    return Constant(value, type(value).__name__)


class Parameter(Expr, frozen=True):
    """`$name`."""

    name: str


class Variable(Expr, frozen=True):
    """A name that a clause has bound."""

    name: str


class Property(Expr, frozen=True):
    """`base.key`."""

    base: Expr
    key: str


class HasLabels(Expr, frozen=True):
    """`base:A:B`: a node has all these labels, or a relationship this type."""

    base: Expr
    labels: tuple[str, ...]


class Index(Expr, frozen=True):
    """`base[index]`."""

    base: Expr
    index: Expr


class Slice(Expr, frozen=True):
    """`base[low..high]`."""

    base: Expr
    low: Expr | None
    high: Expr | None


class ListOf(Expr, frozen=True):
    """`[a, b]`."""

    items: tuple[Expr, ...]


class MapOf(Expr, frozen=True):
    """`{key: value}`."""

    items: tuple[tuple[str, Expr], ...]


class Not(Expr, frozen=True):
    """`NOT operand`."""

    operand: Expr


class Junction(Expr, frozen=True):
    """Conditions joined by one of AND, OR, XOR."""

    op: str
    operands: tuple[Expr, ...]


class Compare(Expr, frozen=True):
    """`first < second <= third`: each pair holds."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]


class Test(Expr, frozen=True):
    """`left STARTS WITH right`, ENDS WITH, CONTAINS or IN."""

    op: str
    left: Expr
    right: Expr


class IsNull(Expr, frozen=True):
    """`operand IS NULL`, or IS NOT NULL when `negated`."""

    operand: Expr
    negated: bool


class Arithmetic(Expr, frozen=True):
    """`first + second - third`, from left to right."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]


class Negative(Expr, frozen=True):
    """`-operand`."""

    operand: Expr


class Case(Expr, frozen=True):
    """CASE; with a `subject` it is compared to each branch's first part."""

    subject: Expr | None
    branches: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr | None


class Call(Expr, frozen=True):
    """A function by its lower-case name; `star` is `count(*)`."""

    name: str
    arguments: tuple[Expr, ...]
    distinct: bool = False
    star: bool = False


class Reduce(Expr, frozen=True):
    """`reduce(accumulator = start, name IN source | body)`."""

    accumulator: str
    start: Expr
    name: str
    source: Expr
    body: Expr


class Comprehension(Expr, frozen=True):
    """`[name IN source WHERE where | body]`."""

    name: str
    source: Expr
    where: Expr | None
    body: Expr | None


class Quantifier(Expr, frozen=True):
    """`all(name IN source WHERE where)`, any, none or single."""

    kind: str
    name: str
    source: Expr
    where: Expr


class NodePattern(Tree, frozen=True):
    """`(name:A:B {key: value})`."""

    name: str | None
    labels: tuple[str, ...]
    properties: Expr | None


Direction = Literal["out", "in", "both"]


class RelationshipPattern(Tree, frozen=True):
    """`-[name:A|B*low..high {key: value}]->`; `hops` None is exactly one, `high` None no limit."""

    name: str | None
    types: tuple[str, ...]
    direction: Direction
    hops: tuple[int, int | None] | None
    properties: Expr | None


class Part(Tree, frozen=True):
    """A chain of nodes. With `fan` the last relationship leads to all of these at once: it is a
    hyperedge with roles."""

    path: str | None
    nodes: tuple[NodePattern, ...]
    relationships: tuple[RelationshipPattern, ...]
    fan: tuple[NodePattern, ...] = ()


class Match(Tree, frozen=True):
    """MATCH and OPTIONAL MATCH."""

    parts: tuple[Part, ...]
    where: Expr | None
    optional: bool


class Unwind(Tree, frozen=True):
    """UNWIND source AS name."""

    source: Expr
    name: str


class Item(Tree, frozen=True):
    """A column: what stands in it, under which name, and whether AS gave it."""

    expression: Expr
    name: str
    aliased: bool


class Sort(Tree, frozen=True):
    """One key of ORDER BY."""

    expression: Expr
    descending: bool


class Projection(Tree, frozen=True):
    """WITH, or RETURN when `final`."""

    items: tuple[Item, ...]
    star: bool
    distinct: bool
    order: tuple[Sort, ...]
    skip: Expr | None
    limit: Expr | None
    where: Expr | None
    final: bool


class Create(Tree, frozen=True):
    """CREATE."""

    parts: tuple[Part, ...]


class SetProperty(Tree, frozen=True):
    """`name.key = value`; REMOVE name.key sets null."""

    name: str
    key: str
    value: Expr


class SetAll(Tree, frozen=True):
    """`name = map`, or `name += map` when `add`."""

    name: str
    value: Expr
    add: bool


class SetLabels(Tree, frozen=True):
    """`name:A:B`, to be added or removed."""

    name: str
    labels: tuple[str, ...]
    remove: bool = False


Assignment = SetProperty | SetAll | SetLabels


class Assign(Tree, frozen=True):
    """SET and REMOVE."""

    assignments: tuple[Assignment, ...]


class Merge(Tree, frozen=True):
    """MERGE with what to set on either outcome."""

    part: Part
    on_create: tuple[Assignment, ...]
    on_match: tuple[Assignment, ...]


class Delete(Tree, frozen=True):
    """DELETE, DETACH DELETE."""

    targets: tuple[Expr, ...]
    detach: bool


Clause = Match | Unwind | Projection | Create | Assign | Merge | Delete
WRITES: Final = (Create, Assign, Merge, Delete)


class Query(Tree, frozen=True):
    """A whole query; safe to keep and to share."""

    clauses: tuple[Clause, ...]
    explain: bool

    @property
    def writes(self) -> bool:
        """Whether it can change the graph."""
        return not self.explain and any(isinstance(clause, WRITES) for clause in self.clauses)
