"""Bad input about graphs: refused with the field that is to blame, nothing stored, never a 5xx."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import Cluster
from tests.system.bad_graphs import (
    ASKING,
    BATCHES,
    CHAINS,
    EDGES,
    EXPIRIES,
    GRAPH,
    GRAPH_NAMES,
    GRAPHS,
    MANY,
    NODES,
    QUESTIONS,
    edge,
)
from tests.system.description import description
from tests.system.exchange import refusal, send
from tests.system.graph_exchange import Graph, asked, chained, make_graph, named

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

Refuses = Callable[..., None]


@pytest.fixture(scope="module")
def target(shared: Cluster) -> Graph:
    """A small graph, which nothing in this file may change."""
    graph = make_graph(shared.url(1), "refusing", GRAPH)
    graph.put_nodes(*named("a", "b", "c", vector=[1, 2, 3, 4]))
    graph.put_edges(chained("CAUSED_BY", "a", "b", "c", id="e", vector=[4, 3, 2, 1]))
    return graph


def state(graph: Graph) -> Any:
    """Return all that a request may have changed."""
    content = graph.ask("export", format="json")["content"]
    return graph.describe(), content, send(graph.url, "GET", "/graph").result


@pytest.fixture
def refuses(target: Graph) -> Refuses:
    """Sends a request and sees that it is refused for the right reason, and changes nothing."""

    def check(method: str, path: str, body: Any, field: str | None) -> None:
        before = state(target)
        raw = body if isinstance(body, str) else json.dumps(body)
        answer = send(target.url, method, path, raw=raw.encode())
        description(target.url).check(method, path, answer)
        found = refusal(answer)

        assert found[::2] == (400, field), answer.body
        assert found[1] in {"bad_request", "unsupported_feature", "embedding_space_mismatch"}
        assert state(target) == before

    return check


def cases(table: Sequence[tuple[Any, ...]], names: str = "body, field") -> Any:
    """Parametrize by a table; a case is called by its number and the field to blame."""
    called = [f"{number}-{case[-1]}" for number, case in enumerate(table)]
    return pytest.mark.parametrize(names, table, ids=called)


@cases(NODES)
def test_nodes(refuses, body, field):
    """A batch is refused whole; the first bad node, or part of it, is named."""
    refuses("POST", "/graph/refusing/nodes", body, field)


@cases(EDGES)
def test_edges(refuses, body, field):
    """So are hyperedges."""
    refuses("POST", "/graph/refusing/edges", body, field)


@cases(CHAINS)
def test_chains(refuses, body, field):
    """And chains of events."""
    refuses("POST", "/graph/refusing/chain", body, field)


@cases(EXPIRIES, "route, body, field")
def test_ids(refuses, route, body, field):
    """What is read or deleted by id has to be one."""
    refuses("POST", f"/graph/refusing/{route}", body, field)


@cases(QUESTIONS, "route, body, field")
def test_questions(refuses, route, body, field):
    """A question that cannot be answered says why."""
    refuses("POST", f"/graph/refusing/{route}", body, field)


@cases(MANY, "route, body, field")
def test_questions_to_several_graphs(refuses, route, body, field):
    """Also one to several graphs."""
    refuses("POST", f"/graph/{route}", body, field)


@cases(BATCHES)
def test_batches(refuses, body, field):
    """A transaction names its bad part."""
    refuses("POST", "/batch", body, field)


@cases(GRAPHS)
def test_graphs(refuses, body, field):
    """A graph is not created by half."""
    refuses("PUT", "/graph/never", body, field)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_names(refuses, name):
    """A name outside the alphabet, too long, or with a leading dot makes no graph."""
    refuses("PUT", f"/graph/{name}", {}, "name")
    refuses("GET", f"/graph/{name}", "", "name")
    refuses("DELETE", f"/graph/{name}", "", "name")
    refuses("POST", f"/graph/{name}/nodes", {"nodes": named("a")}, "name")
    refuses("POST", f"/graph/{name}/causes", {"id": "a"}, "name")


@pytest.mark.parametrize("what", ["nodes", "edges", "chain", "nodes/get", *ASKING])
def test_an_unknown_graph_is_a_404(shared, what):
    """Named by its name, on every route, on every node."""
    bodies = {
        "nodes": {"nodes": named("a")},
        "edges": {"edges": [edge()]},
        "chain": {"events": named("a", "b")},
        "nodes/get": {"ids": ["a"]},
        **ASKING,
    }
    for url in shared.urls:
        answer = Graph(url, "nowhere").post(what, bodies[what])

        assert refusal(answer) == (404, "graph_not_found", "name")
        assert "nowhere" in answer.body["status"]["error"]


def test_other_methods_and_routes(target):
    """A wrong method is a 405, a wrong route a 404; parameters are read strictly."""
    for method, path, told in (
        ("PATCH", "/graph/refusing", (405, "method_not_allowed", None)),
        ("GET", "/graph/refusing/causes", (405, "method_not_allowed", None)),
        ("POST", "/graph", (405, "method_not_allowed", None)),
        ("POST", "/graph/refusing/horoscope", (404, "not_found", None)),
        ("GET", "/graph/refusing?colour=1", (400, "bad_request", "colour")),
        ("GET", "/graph/refusing?consistency=most", (400, "bad_request", "consistency")),
    ):
        assert refusal(send(target.url, method, path, raw="")) == told


def test_the_largest_that_is_allowed_is_stored(shared):
    """One step inside each limit is served."""
    graph = make_graph(shared.url(2), "brim", {"vectors": None})
    labels = [f"{n:02}" + "l" * 253 for n in range(32)]
    said = {"a": "x" * 65_000, "n": 2**64 - 1}
    graph.put_nodes({"id": "i" * 512, "labels": labels, "properties": said})
    graph.put_nodes(*({"id": str(n)} for n in range(10_000)))
    members = [str(n) for n in range(256)]
    grid = {"by": members[:64], "from": members[64:128]}
    graph.put_edges(chained("e" * 255, *members, id="long", confidence=1))
    graph.put_edges({"id": "grid", "label": "X", "roles": grid})
    deep = [graph.ask("causes", id="255", labels=["e" * 255], max_hops=32, limit=10_000)]

    assert graph.nodes("i" * 512)[0]["labels"] == labels
    assert graph.edges("long")[0]["members"] == members
    assert len(deep[0]["paths"]) == 32
    assert graph.rows("MATCH ({id: '0'})-[r:X]->() RETURN count(r)") == [64]
    assert graph.rows("RETURN " + "(" * 60 + "1" + ")" * 60) == [1]


def test_a_write_that_is_too_large_is_refused_whole(shared):
    """What does not fit one log entry is a 413, and says what to do."""
    graph = make_graph(shared.url(3), "large", {"vectors": None})
    nodes = [{"id": str(n), "properties": {"a": "x" * 60_000}} for n in range(40)]
    answer = graph.post("nodes", {"nodes": nodes})
    query = "UNWIND range(1, 40) AS n CREATE (:Large {a: $a})"
    written = graph.post("cypher", {"query": query, "parameters": {"a": "x" * 60_000}})

    assert refusal(answer)[:2] == refusal(written)[:2] == (413, "payload_too_large")
    assert graph.describe()["nodes"] == 0


BODIES: Final[dict[str, Any]] = {
    **{f"/graph/mutable/{route}": body for route, body in ASKING.items()},
    "/graph/mutable/nodes": {
        "nodes": [
            {"id": "a", "labels": ["Event"], "properties": {"x": [1]}, "vector": [1, 2, 3, 4]},
            {"id": "b", "text": None},
        ]
    },
    "/graph/mutable/edges": {
        "edges": [
            edge(id="e", arc_confidences=[0.5], valid_at="2024-01-01", properties={"y": {}}),
            {"label": "Y", "roles": {"by": ["a"], "to": ["b"]}, "confidence": 0.5},
        ]
    },
    "/graph/mutable/chain": {"events": [{"id": "a", "type": "t"}, {"id": "b"}], "confidences": [1]},
    "/graph/mutable/nodes/get": {"ids": ["a", "b"], "with_vector": True},
    "/graph/mutable/edges/get": {"ids": ["e"], "with_vector": False},
    "/graph/mutable/nodes/delete": {"ids": ["z"], "cascade": True},
    "/graph/mutable/edges/delete": {"ids": ["z"], "expire": True},
    "/graph/mutable/algorithms/shortest_path": {"parameters": {"source": "a", "target": "b"}},
    "/graph/cypher": {"graphs": ["mutable", "refusing"], "query": "MATCH (n) RETURN n ORDER BY n"},
    "/graph/recall": {"graphs": ["mutable", "refusing"], "vector": [1, 2, 3, 4], "k": 3},
    "/batch": {
        "shard_key": "mutable",
        "collection": "mutable",
        "points": [{"id": 1, "vector": [1, 2], "payload": {}}],
        "nodes": [{"id": "a"}],
        "deletes": {"nodes": ["z"], "edges": ["z"], "points": [2], "cascade": False},
    },
}
"""A good body of every route."""
KEYS: Final = [
    *("id", "ids", "labels", "limit", "hops", "max_hops", "vector", "text", "as_of", "known_at"),
    *("format", "around", "roles", "members", "confidence", "kinds", "timeout_ms", "direction"),
]

_numbers = st.one_of(
    st.integers(-2, 40), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([1e39, -0.0])
)
_texts = st.one_of(
    st.sampled_from(
        ["", "a", "b", "e", "z", "\0", "x" * 600, "é" * 300, "CAUSED_BY", "both", "svg"]
    ),
    st.text(max_size=8),
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _texts),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.one_of(st.sampled_from(KEYS), _texts), inner, max_size=4)
    ),
    max_leaves=12,
)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a body with each of its keys or positions."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _spots(value[key])


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a route, and a good body of it in which some values are others, more or none."""
    path = draw(st.sampled_from(sorted(BODIES)))
    if draw(st.integers(0, 9)) == 0:
        return path, json.dumps(draw(_values)).encode("utf-8", "replace")
    body = copy.deepcopy(BODIES[path])
    for _ in range(draw(st.integers(1, 3))):
        if spots := list(_spots(body)):
            holder, key = draw(st.sampled_from(spots))
            if draw(st.integers(0, 4)) == 0:
                del holder[key]
            else:
                holder[key] = draw(_values)
        if draw(st.integers(0, 3)) == 0:
            body[draw(st.sampled_from(KEYS))] = draw(_values)
    return path, json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def mutable(target: Graph) -> Graph:
    """A graph that anything may be done to, and a collection whose points lie beside it."""
    size = {"size": 2, "distance": "Cosine"}
    collection = {"vectors": size, "sharding_method": "custom"}
    assert send(target.url, "PUT", "/collections/mutable", collection).result is True
    return make_graph(target.url, "mutable", GRAPH)


@settings(max_examples=500)
@given(request=_requests())
def test_no_body_is_a_server_error(mutable, request):
    """Whatever a body holds, it is answered or refused, as it is described."""
    path, raw = request
    answer = send(mutable.url, "POST", path, raw=raw)
    description(mutable.url).check("POST", path, answer)

    assert answer.status in (200, 400, 404, 409, 413), (path, raw, answer.body)


@settings(max_examples=60)
@given(body=_values)
def test_no_body_of_a_new_graph_is_a_server_error(target, body):
    """Nor does any make a graph that cannot be described and dropped again."""
    path = "/graph/maybe"
    raw = json.dumps(body).encode("utf-8", "replace")
    answer = send(target.url, "PUT", path, raw=raw)
    description(target.url).check("PUT", path, answer)
    if answer.status == 200:
        assert asked(target.url, "GET", path).result["nodes"] == 0
        assert asked(target.url, "DELETE", path).result is True
    else:
        assert answer.status == 400


def test_everything_still_works(shared, target):
    """After all this every node is ready, and serves what it served before."""
    shared.until_ready()
    for url in shared.urls:
        graph = target.at(url)
        assert [each["id"] for each in graph.nodes("a", "b", "c")] == ["a", "b", "c"]
        assert len(graph.ask("causes", id="c")["paths"]) == 2
        assert graph.ask("recall", vector=[4, 3, 2, 1])["matches"][0]["id"] == "e"
