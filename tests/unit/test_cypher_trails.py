"""Patterns of any length against a brute force that walks by recursion."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cypher_graph import column, edge, graph, node, rows

LABELS = ("T", "U")
FIRST = (
    "MATCH path = (root:Event)-[:CAUSED_BY*1..5]->(outcome:Event {id: $outcomeId}) "
    "WHERE root.type = 'root_cause' RETURN path, length(path) AS depth, "
    "reduce(conf = 1.0, r IN relationships(path) | conf * r.confidence) AS chain_confidence "
    "ORDER BY chain_confidence DESC LIMIT 10"
)
SECOND = (
    "MATCH (a:Event)-[:CAUSED_BY]->(b:Event)-[:CAUSED_BY]->(c:Event) "
    "WHERE a.type = $type1 AND b.type = $type2 RETURN a, b, c"
)
small = st.integers(0, 4)
edges = st.lists(st.tuples(small, small, st.sampled_from(LABELS)), max_size=7)


def arcs_of(pairs):
    """Return (edge, position, source, target) for each arc."""
    return [(f"e{at}", 0, str(a), str(b), label) for at, (a, b, label) in enumerate(pairs)]


def trails(arcs, start, low, high, *, both=False):
    """Yield each trail from a node, as a list of (arc, node arrived at)."""

    def walk(here, trail, used):
        if len(trail) >= low:
            yield list(trail)
        if len(trail) == high:
            return
        for at, (_, _, source, target, _) in enumerate(arcs):
            ways = [target] if source == here else []
            if both and target == here and source != here:
                ways.append(source)
            for arrived in ways:
                if at not in used:
                    yield from walk(arrived, [*trail, (arcs[at][0], arrived)], used | {at})

    return walk(start, [], frozenset())


def built(pairs):
    nodes = [node(str(n)) for n in range(5)]
    made = [edge(name, label, source, target) for name, _, source, target, label in arcs_of(pairs)]
    return graph(*nodes, *made)


def expected(pairs, start, low, high, *, both=False):
    found = []
    for trail in trails(arcs_of(pairs), start, low, high, both=both):
        names = [name for name, _ in trail]
        found.append([names, [start, *(arrived for _, arrived in trail)]])
    return sorted(found)


SHOWN = "[r IN relationships(p) | r.id], [n IN nodes(p) | n.id]"


@settings(max_examples=70, deadline=None)
@given(edges, st.integers(0, 3), st.integers(0, 3))
def test_trails_along_the_arrows(pairs, low, more):
    """All trails of the lengths asked for are found, on cycles, loops and parallel arcs."""
    pattern = f"p = (a {{id: '0'}})-[*{low}..{low + more}]->(b)"

    found = rows(f"MATCH {pattern} RETURN {SHOWN}", built(pairs))

    assert sorted(found) == expected(pairs, "0", low, low + more)


@settings(max_examples=50, deadline=None)
@given(edges, st.integers(0, 3))
def test_trails_against_the_arrows(pairs, high):
    """Walked from their end, trails are the same and read from their beginning."""
    found = rows(f"MATCH p = (a)-[*0..{high}]->(b {{id: '0'}}) RETURN {SHOWN}", built(pairs))

    every = [each for start in "01234" for each in expected(pairs, start, 0, high)]
    assert sorted(found) == sorted(each for each in every if each[1][-1] == "0")


@settings(max_examples=50, deadline=None)
@given(edges)
def test_trails_either_way(pairs):
    """Without an arrow each arc is walked in both directions, a loop once."""
    found = rows(f"MATCH p = (a {{id: '0'}})-[*1..3]-(b) RETURN {SHOWN}", built(pairs))

    assert sorted(found) == expected(pairs, "0", 1, 3, both=True)


@settings(max_examples=50, deadline=None)
@given(edges)
def test_trails_without_limit_end(pairs):
    """A trail uses no arc twice, so even unbounded ones come to an end."""
    found = rows(f"MATCH p = (a {{id: '0'}})-[*]->(b {{id: '1'}}) RETURN {SHOWN}", built(pairs))

    every = expected(pairs, "0", 1, len(pairs))
    assert sorted(found) == [each for each in every if each[1][-1] == "1"]


@settings(max_examples=70, deadline=None)
@given(edges)
def test_joined_patterns(pairs):
    """Steps of one MATCH share no arc, and types select."""
    text = "MATCH (a)-[r:T]->(b)<-[s]-(c), (b)-[t:U]-(d) RETURN r.id, s.id, t.id, a.id, c.id, d.id"
    arcs = arcs_of(pairs)

    wanted = [
        [r[0], s[0], t[0], r[2], s[2], d]
        for r in arcs
        for s in arcs
        for t in arcs
        for d in {t[3]: 0} | {t[2]: 0}
        if r[4] == "T" and t[4] == "U" and s[3] == r[3]
        and ((t[2] == r[3] and d == t[3]) or (t[3] == r[3] and d == t[2]))
        and len({r[0], s[0], t[0]}) == 3
    ]  # fmt: skip

    assert sorted(rows(text, built(pairs))) == sorted(wanted)


kinds = st.sampled_from(["root_cause", "symptom", "fix"])
chains = st.lists(
    st.tuples(st.lists(small, min_size=2, max_size=4), st.sampled_from([1.0, 0.5, 0.25])),
    max_size=5,
)


def events(types, hyperedges):
    nodes = [node(str(at), "Event", type=kind) for at, kind in enumerate(types)]
    made = [
        edge(f"h{at}", "CAUSED_BY", *map(str, members), confidence=confidence ** (len(members) - 1),
             arcs=(confidence,) * (len(members) - 1))
        for at, (members, confidence) in enumerate(hyperedges)
    ]  # fmt: skip
    arcs = [
        (f"h{at}", position, str(a), str(b), confidence)
        for at, (members, confidence) in enumerate(hyperedges)
        for position, (a, b) in enumerate(pairwise(members))
    ]
    return graph(*nodes, *made), arcs


@settings(max_examples=70, deadline=None)
@given(st.lists(kinds, min_size=5, max_size=5), chains)
def test_causal_paths_to_an_outcome(types, hyperedges):
    """The ten most confident paths from root causes are those that a brute force finds."""
    state, arcs = events(types, hyperedges)
    scored = []
    for start in "01234":
        if types[int(start)] != "root_cause":
            continue
        for trail in trails([(at, *arc[1:]) for at, arc in enumerate(arcs)], start, 1, 5):
            if trail[-1][1] == "4":
                confidence = 1.0
                for at, _ in trail:
                    confidence *= arcs[at][4]
                scored.append((confidence, len(trail)))

    found = rows(FIRST, state, outcomeId="4")

    assert [row[2] for row in found] == sorted((score for score, _ in scored), reverse=True)[:10]
    assert {(row[2], row[1]) for row in found} <= set(scored)
    for path, depth, _ in found:
        assert (path["length"], path["nodes"][-1]["id"]) == (depth, "4")


@settings(max_examples=50, deadline=None)
@given(st.lists(kinds, min_size=5, max_size=5), chains)
def test_similar_patterns(types, hyperedges):
    """Events in a row are found by their types."""
    state, arcs = events(types, hyperedges)

    found = [
        [each["id"] for each in row] for row in rows(SECOND, state, type1="fix", type2="symptom")
    ]

    wanted = [
        [one[2], one[3], other[3]]
        for one in arcs
        for other in arcs
        if one is not other and one[3] == other[2]
        and types[int(one[2])] == "fix" and types[int(one[3])] == "symptom"
    ]  # fmt: skip
    assert sorted(found) == sorted(wanted)


def test_long_chain():
    """Depth costs no stack."""
    count = 5000
    nodes = [node(str(at)) for at in range(count)]
    links = [edge(f"e{at}", "T", str(at), str(at + 1)) for at in range(count - 1)]

    assert column("MATCH (a {id: '0'})-[r*4999]->(b) RETURN b.id", graph(*nodes, *links)) == [
        "4999"
    ]
