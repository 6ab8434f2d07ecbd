"""Graph algorithms by name, carried out by networkx on the arcs of a graph.

Answers are reproducible: `graph.projection` gives networkx graphs that depend on nothing but what
the store holds, where chance is part of an algorithm its seed is fixed, and scores are rounded to
nine digits before they are ordered, for the last digits depend on the order of a sum. Results come
best first, equal ones by id.

networkx cannot be stopped half-way. What bounds an algorithm's time is the size of the graph, so
each has limits of its own, chosen for a few seconds at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Final, Literal

import networkx as nx
import numpy as np
from scipy import sparse

from graph.budget import Budget
from graph.edge_filter import EdgeFilter
from graph.errors import BadQuery, NodeMissing, TooLarge
from graph.projection import Limits, Projection, read_projection
from graph.shapes import arc_shape, node_shape
from graph.state import GraphState

Kind = Literal["boolean", "integer", "number", "text", "texts"]
Arguments = Mapping[str, Any]
Run = Callable[[Projection, Arguments], Sequence[Any]]
Shape = Callable[[Projection, Any, Arguments], dict[str, Any]]

SEED: Final = 1
_HOP_COST: Final = 1e-9
"""What a hop costs beside its -log(confidence): of two chains that are equally sure the shorter."""
_POWERS_MAX: Final = 5_000
_POWERS_TOLERANCE: Final = 1e-12
_EXACT_NODES_MAX: Final = 1_000
"""Up to this size betweenness is computed from all nodes."""


@dataclass(frozen=True)
class Parameter:
    """An argument of an algorithm. Numbers lie between `low` and `high`, texts are one of
    `choices` if there are any. Without a default, None, it has to be given."""

    name: str
    kind: Kind
    default: Any = None
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that is served. `run` gives all results, best first; `shape` makes one of them
    plain JSON."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    limits: Limits
    run: Run
    shape: Shape


def run_algorithm(  # noqa: PLR0913 - what, of which time, and how much of it
    state: GraphState,
    name: str,
    arguments: Arguments,
    *,
    limit: int,
    as_of: int | None = None,
    known_at: int | None = None,
    budget: Budget,
) -> dict[str, Any]:
    """Run an algorithm on a graph and return its best results as plain JSON."""
    assert limit > 0, "some result is wanted"
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        known = ", ".join(ALGORITHMS)
        raise BadQuery(f"There is no algorithm {name!r}; there are: {known}.", field="algorithm")
    checked = check_arguments(algorithm, arguments)
    labels = None if checked["labels"] is None else frozenset(checked["labels"])
    wanted = EdgeFilter(labels, as_of, known_at)
    try:
        projection = read_projection(state, wanted, algorithm.limits, budget)
    except TooLarge as error:
        raise TooLarge(f"The graph is too large for {name}: {error.message}") from None
    found = algorithm.run(projection, checked) if projection.nodes else ()
    return {
        "algorithm": name,
        "nodes": len(projection.nodes),
        "arcs": len(projection.sources),
        "count": len(found),
        "results": [algorithm.shape(projection, each, checked) for each in found[:limit]],
        "truncated": len(found) > limit,
    }


def check_arguments(algorithm: Algorithm, arguments: Arguments) -> dict[str, Any]:
    """Return the value of every parameter; raises BadQuery that names a bad one."""
    parameters = {each.name: each for each in (*algorithm.parameters, _LABELS)}
    for name in arguments:
        if name not in parameters:
            known = ", ".join(parameters)
            message = f"{algorithm.name} has no argument {name!r}; it has: {known}."
            raise BadQuery(message, field=name)
    return {name: _checked(each, arguments.get(name)) for name, each in parameters.items()}


def _checked(parameter: Parameter, value: Any) -> Any:
    name = parameter.name
    if value is None:
        if parameter.default is None and not parameter.optional:
            raise BadQuery(f"{name} is required.", field=name)
        return parameter.default
    if not _KINDS[parameter.kind](value):
        raise BadQuery(f"{name} has to be {_WORDS[parameter.kind]}.", field=name)
    if parameter.kind in ("integer", "number") and not parameter.low <= value <= parameter.high:
        message = f"{name} has to lie between {parameter.low:g} and {parameter.high:g}."
        raise BadQuery(message, field=name)
    if parameter.choices and value not in parameter.choices:
        raise BadQuery(f"{name} has to be one of: {', '.join(parameter.choices)}.", field=name)
    return value


_KINDS: Final[dict[Kind, Callable[[Any], bool]]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "texts": lambda value: (
        isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    ),
}
_WORDS: Final[dict[Kind, str]] = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "text": "a text",
    "texts": "a list of texts",
}


# -- scores ---------------------------------------------------------------------------------------


def _ranked(scores: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return (number, score), best first; numbers are in the order of ids."""
    rounded = [(number, float(f"{score:.9g}")) for number, score in scores]
    return sorted(rounded, key=lambda pair: (-pair[1], pair[0]))


def _score_shape(
    projection: Projection, result: tuple[int, float], _arguments: Arguments
) -> dict[str, Any]:
    return {"id": projection.nodes[result[0]].id, "score": result[1]}


def _pagerank(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    graph = projection.directed(projection.total if arguments["weighted"] else None)
    tolerance = 1e-9 / len(projection.nodes)
    return _ranked(nx.pagerank(graph, arguments["damping"], max_iter=10_000, tol=tolerance).items())


def _degree(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    measure = {
        "in": nx.in_degree_centrality,
        "out": nx.out_degree_centrality,
        "both": nx.degree_centrality,
    }[arguments["direction"]]
    return _ranked(measure(projection.directed()).items())


def _closeness(projection: Projection, _arguments: Arguments) -> Sequence[Any]:
    return _ranked(nx.closeness_centrality(projection.directed()).items())


def _betweenness(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    size = len(projection.nodes)
    samples = None if size <= _EXACT_NODES_MAX else min(size, arguments["samples"])
    graph = projection.directed()
    return _ranked(nx.betweenness_centrality(graph, k=samples, seed=SEED).items())


def _eigenvector(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    """The leading vector of A + I (A alone may swing between two) by power iteration. ARPACK
    needs fewer steps, but begins anew somewhere by chance when it meets the vector too early."""
    weights = projection.total if arguments["weighted"] else np.ones_like(projection.total)
    matrix = projection.symmetric(weights) + sparse.eye_array(len(projection.nodes), format="csr")
    vector = np.full(len(projection.nodes), 1 / math.sqrt(len(projection.nodes)))
    for _ in range(_POWERS_MAX):
        before, vector = vector, matrix @ vector
        vector /= np.linalg.norm(vector)
        if np.linalg.norm(vector - before) < _POWERS_TOLERANCE:
            break
    return _ranked(enumerate(vector.tolist()))


# -- groups ---------------------------------------------------------------------------------------


def _grouped(groups: Iterable[Iterable[int]]) -> list[list[int]]:
    return sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group[0]))


def _group_shape(projection: Projection, result: list[int], arguments: Arguments) -> dict[str, Any]:
    shown = islice(result, arguments["members"])
    return {"size": len(result), "ids": [projection.nodes[number].id for number in shown]}


def _weak(projection: Projection, _arguments: Arguments) -> Sequence[Any]:
    return _grouped(nx.weakly_connected_components(projection.directed()))


def _strong(projection: Projection, _arguments: Arguments) -> Sequence[Any]:
    return _grouped(nx.strongly_connected_components(projection.directed()))


def _communities(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    graph = projection.undirected(projection.total)
    resolution = arguments["resolution"]
    return _grouped(nx.community.louvain_communities(graph, resolution=resolution, seed=SEED))


# -- paths ----------------------------------------------------------------------------------------


def _shortest_path(projection: Projection, arguments: Arguments) -> Sequence[Any]:
    ends = [_number(projection, arguments, name) for name in ("source", "target")]
    try:
        if not arguments["weighted"]:
            return [nx.bidirectional_shortest_path(projection.directed(), *ends)]
        possible = projection.best > 0
        costs = np.full_like(projection.best, math.inf)
        costs[possible] = _HOP_COST - np.log(np.minimum(projection.best[possible], 1))
        graph = projection.directed(costs)
        length, path = nx.bidirectional_dijkstra(graph, *ends)
    except nx.NetworkXNoPath:
        return []
    return [path] if math.isfinite(length) else []


def _number(projection: Projection, arguments: Arguments, name: str) -> int:
    number = projection.number_of(arguments[name])
    if number is None:
        raise NodeMissing(f"There is no node {arguments[name]!r}.", field=name)
    return number


def _path_shape(projection: Projection, result: list[int], _arguments: Arguments) -> dict[str, Any]:
    arcs = [projection.arcs(source, target)[0] for source, target in pairwise(result)]
    return {
        "nodes": [node_shape(projection.nodes[number]) for number in result],
        "edges": [arc_shape(projection.state, arc) for arc in arcs],
        "hops": len(arcs),
        "chain_confidence": math.prod(arc.confidence for arc in arcs),
    }


# -- the registry ---------------------------------------------------------------------------------

_LABELS: Final = Parameter("labels", "texts", optional=True)
"""Edges of these labels only; every algorithm has it."""
_MEMBERS: Final = Parameter("members", "integer", 100, 0, 10_000)
_WEIGHTED: Final = Parameter("weighted", "boolean", default=True)
_LARGE: Final = Limits(250_000, 250_000)

ALGORITHMS: Final[dict[str, Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "pagerank",
            "How often one meets a node who follows arcs and sometimes starts anew.",
            (Parameter("damping", "number", 0.85, 0.0, 0.99), _WEIGHTED),
            _LARGE,
            _pagerank,
            _score_shape,
        ),
        Algorithm(
            "shortest_path",
            "The most confident chain from a node to another; unweighted: the one of fewest hops.",
            (Parameter("source", "text"), Parameter("target", "text"), _WEIGHTED),
            _LARGE,
            _shortest_path,
            _path_shape,
        ),
        Algorithm(
            "connected_components",
            "Groups of nodes that are connected when directions do not count.",
            (_MEMBERS,),
            _LARGE,
            _weak,
            _group_shape,
        ),
        Algorithm(
            "strongly_connected_components",
            "Groups of nodes of which each leads to each other.",
            (_MEMBERS,),
            _LARGE,
            _strong,
            _group_shape,
        ),
        Algorithm(
            "communities",
            "Groups of nodes that are joined more among themselves than chance would (Louvain).",
            (Parameter("resolution", "number", 1.0, 0.01, 100.0), _MEMBERS),
            Limits(10_000, 30_000),
            _communities,
            _group_shape,
        ),
        Algorithm(
            "degree_centrality",
            "The share of the other nodes that a node is joined to by an arc.",
            (Parameter("direction", "text", "both", choices=("in", "out", "both")),),
            _LARGE,
            _degree,
            _score_shape,
        ),
        Algorithm(
            "closeness_centrality",
            "How few hops it takes to a node from those that lead to it.",
            (),
            Limits(3_000, 20_000),
            _closeness,
            _score_shape,
        ),
        Algorithm(
            "betweenness_centrality",
            "The share of shortest paths that lead through a node; above 1,000 nodes estimated.",
            (Parameter("samples", "integer", 100, 1, 256),),
            Limits(10_000, 40_000),
            _betweenness,
            _score_shape,
        ),
        Algorithm(
            "eigenvector_centrality",
            "How well a node is joined to nodes that are well joined; directions do not count.",
            (_WEIGHTED,),
            Limits(30_000, 100_000),
            _eigenvector,
            _score_shape,
        ),
    )
}
