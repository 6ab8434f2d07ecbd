"""Graphs that fit on a page, drawn or written down, and the arcs that they ought to have."""

from itertools import product

import orjson
from hypothesis import strategies as st

from graph.model import GraphDelta, Role, StoredEdge, StoredNode
from graph.state import GraphState

NODES = tuple("abcdefg")
LABELS = ("LEADS_TO", "CAUSED_BY", "MENTIONS")
SHARES = (0.0, 0.3, 0.5, 0.9, 1.0)


def a_node(node_id, *, labels=(), version=1, **properties):
    """Return a node as it is stored."""
    raw = orjson.dumps(properties, option=orjson.OPT_SORT_KEYS)
    return StoredNode(node_id, tuple(labels), raw, version, version, version)


def an_edge(edge_id, members, label="LEADS_TO", **fields):
    """Return a hyperedge as it is stored; `members` is a text of ids of one letter, or ids."""
    known = {
        "roles": (),
        "properties": b"{}",
        "confidence": 1.0,
        "arc_confidences": (),
        "valid_at": None,
        "invalid_at": None,
        "version": 1,
        "created": 0,
        "updated": 0,
    }
    return StoredEdge(id=edge_id, label=label, members=tuple(members), **{**known, **fields})


def a_graph(edges, nodes=None):
    """Return a state of these edges, and of the nodes that they join if no others are given."""
    if nodes is None:
        ids = dict.fromkeys(member for edge in edges for member in edge.members)
        nodes = [a_node(node_id) for node_id in ids]
    return GraphState().apply(GraphDelta(1, list(nodes), list(edges)))


@st.composite
def drawn_edges(draw, edge_id, nodes=NODES):
    """Draw an edge: a chain or one with roles, with or without an end, in the world or known."""
    members = draw(st.lists(st.sampled_from(nodes), min_size=2, max_size=4))
    roles: tuple[Role, ...] = ()
    if draw(st.booleans()):
        sources = draw(st.integers(1, len(members) - 1))
        roles = (("by", sources), ("to", len(members) - sources))
    shares = st.sampled_from(SHARES)
    given = () if roles else draw(st.sampled_from((0, len(members) - 1)))
    return an_edge(
        edge_id,
        members,
        draw(st.sampled_from(LABELS)),
        roles=roles,
        confidence=draw(shares),
        arc_confidences=tuple(draw(shares) for _ in range(given)) if given else (),
        valid_at=draw(st.sampled_from((None, 5))),
        invalid_at=draw(st.sampled_from((None, 10))),
        created=draw(st.sampled_from((0, 50))),
        expired=draw(st.sampled_from((None, None, None, 70))),
    )


def drawn_graphs(edges_max=6):
    """Draw the edges of a small graph."""
    return st.integers(0, edges_max).flatmap(
        lambda count: st.tuples(*(drawn_edges(f"e{at}") for at in range(count)))
    )


def plain_arcs(edge):
    """Return (source, target, position, confidence) of an edge's arcs, from the definition."""
    if edge.roles:
        sources = edge.roles[0][1]
        pairs = list(product(edge.members[:sources], edge.members[sources:]))
        shares = [edge.confidence] * len(pairs)
    else:
        pairs = list(zip(edge.members[:-1], edge.members[1:], strict=True))
        shares = edge.arc_confidences or [edge.confidence ** (1 / len(pairs))] * len(pairs)
    return [(*pair, at, share) for at, (pair, share) in enumerate(zip(pairs, shares, strict=True))]


def plainly_holds(edge, which):
    """Return whether an edge counts, from the definition of the two times."""
    if which.labels is not None and edge.label not in which.labels:
        return False
    at = which.known_at
    if at is None:
        known = edge.expired is None
    else:
        known = edge.created <= at and (edge.expired is None or at < edge.expired)
    if which.as_of is None:
        return known
    begun = edge.valid_at is None or edge.valid_at <= which.as_of
    return known and begun and (edge.invalid_at is None or which.as_of < edge.invalid_at)
