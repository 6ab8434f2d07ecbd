"""Graphs on three real nodes: made, written, read back, seen by sessions, kept over a restart."""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import await_ready, eventually, start_cluster
from tests.system.causal_twin import random_twin, stored
from tests.system.exchange import SESSION, refusal
from tests.system.graph_exchange import Graph, asked, chained, ids_of, make_graph, named

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
INDEXES = ["Event.timestamp", "Event.type", "Event.agentId"]
PLAIN = {"vectors": {"size": 2, "distance": "Cosine"}}


def times(valid_at: str | None = None, invalid_at: str | None = None) -> dict[str, Any]:
    """Return the times of an edge that is held to be true."""
    return {"valid_at": valid_at, "invalid_at": invalid_at, "expired_at": None}


def without_birth(edge: dict[str, Any]) -> dict[str, Any]:
    """Return an edge without the time of its creation, which it must have."""
    assert MOMENT.fullmatch(edge["created_at"])
    return {name: value for name, value in edge.items() if name != "created_at"}


def test_creating_is_idempotent(shared):
    """The same again, on any node, is no error and makes nothing; other parameters are a 409."""
    graph = make_graph(shared.url(1), "twice")
    for url in shared.urls:
        again = asked(url, "PUT", graph.path, {}).result
        bare = asked(url, "PUT", graph.path, headers={"Content-Type": None}).result
        other = asked(url, "PUT", graph.path, PLAIN)
        indexed = asked(url, "PUT", graph.path, {"indexes": ["Event.type"]})

        assert again == bare == {"name": "twice", "created": False}
        assert refusal(other) == refusal(indexed) == (409, "collection_exists", "name")


def test_what_a_graph_is(shared):
    """Vectors of the server's embedding by default, or of one's own, or none; and its sizes."""
    usual = make_graph(shared.url(1), "usual").describe()
    own = {"vectors": {"size": 3, "distance": "Euclid"}, "indexes": ["A.x", "A.x", "B.y.z"]}
    made = make_graph(shared.url(2), "own", own)
    bare = make_graph(shared.url(3), "bare", {"vectors": None}).describe()
    made.put_nodes(*named("a", "b", vector=[0, 0, 0]))
    made.put_edges(chained("X", "a", "b"))
    told = made.describe()

    assert (usual["vectors"], usual["indexes"]) == ({"size": 256, "distance": "Cosine"}, INDEXES)
    assert usual["embedding_space"]
    assert (told["vectors"], told["embedding_space"]) == (own["vectors"], None)
    assert (told["indexes"], told["nodes"], told["edges"]) == (["A.x", "B.y.z"], 2, 1)
    assert told["version"] > 1
    assert (bare["vectors"], bare["embedding_space"], bare["nodes"]) == (None, None, 0)
    for url in shared.urls:
        listed = asked(url, "GET", "/graph?consistency=strong").result["graphs"]
        names = [each["name"] for each in listed]
        assert {"usual", "own", "bare"} <= set(names)
        assert names == sorted(names)


def test_a_dropped_graph_is_gone_and_its_name_is_free(shared):
    """Nothing of it comes back with the name, on any node."""
    graph = make_graph(shared.url(1), "phoenix", PLAIN)
    graph.put_nodes(*named("a", "b", vector=[1, 0]))
    graph.put_edges(chained("X", "a", "b", id="e"))
    dropped = asked(shared.url(2), "DELETE", graph.path)
    token = {SESSION: dropped.headers[SESSION]}
    gone = [asked(url, "GET", graph.path, headers=token) for url in shared.urls]
    late = [graph.at(url).post("nodes", {"nodes": named("a")}) for url in shared.urls]

    assert dropped.result is True
    assert asked(shared.url(3), "DELETE", graph.path).result is False
    assert {refusal(each) for each in (*gone, *late)} == {(404, "graph_not_found", "name")}
    make_graph(shared.url(3), "phoenix", {"vectors": None})
    for url in shared.urls:
        again = graph.at(url)
        told = asked(url, "GET", f"{graph.path}?consistency=strong").result
        assert (told["nodes"], told["edges"], told["vectors"]) == (0, 0, None)
        assert (again.nodes("a", "b"), again.edges("e")) == ([], [])


def test_nodes_come_back_as_they_were_written(shared):
    """In the order asked, what is missing left out, vectors when wanted and of length 1."""
    graph = make_graph(shared.url(1), "nodes", PLAIN)
    said = {"n": 1, "big": 2**64 - 1, "half": 0.5, "list": [1, None, {"a": "ü"}], "yes": True}
    graph.put_nodes(
        {"id": "a", "labels": ["Event", "Seen"], "properties": said, "vector": [3, 4]},
        {"id": "ünï ☃", "properties": {"id": "ünï ☃"}},
        {"id": "x" * 512, "labels": [], "properties": None, "vector": None},
    )
    found = graph.nodes("x" * 512, "nobody", "a", "ünï ☃", "a", with_vector=True)

    assert found[1] == {
        "id": "a",
        "labels": ["Event", "Seen"],
        "properties": said,
        "vector": pytest.approx([0.6, 0.8]),
    }
    assert found[0] == {"id": "x" * 512, "labels": [], "properties": {}, "vector": None}
    assert found[2] == {"id": "ünï ☃", "labels": [], "properties": {}, "vector": None}
    assert "vector" not in graph.nodes("a")[0]
    graph.put_nodes({"id": "a", "labels": ["New"]})
    assert graph.nodes("a", with_vector=True) == [
        {"id": "a", "labels": ["New"], "properties": {}, "vector": None}
    ]


def test_edges_come_back_as_they_were_written(shared):
    """Ordered or by role; confidences of the whole or of each arc; times in either form."""
    graph = make_graph(shared.url(2), "edges", PLAIN)
    graph.put_nodes(*named(*"abcd"))
    roles = {"by": ["a"], "from": ["b", "c"], "for": ["d"]}
    graph.put_edges(
        chained("CAUSED_BY", *"abc", id="whole", confidence=0.25, properties={"n": 1}),
        chained("CAUSED_BY", *"abca", id="arcs", arc_confidences=[0.5, 0.25, 1]),
        {"id": "roles", "label": "MADE", "roles": roles, "confidence": 0.7, "vector": [0, 2]},
        chained(
            "X", *"ab", id="text", valid_at="2024-05-01T12:00:00+02:00", invalid_at="2025-01-01"
        ),
        chained("X", *"ab", id="ms", valid_at=-1, invalid_at=1_735_689_600_123),
    )
    whole, arcs, by_role, text, ms = map(
        without_birth, graph.edges("whole", "arcs", "roles", "nothing", "text", "ms")
    )

    assert whole == {
        "id": "whole",
        "label": "CAUSED_BY",
        "members": ["a", "b", "c"],
        "arc_confidences": [0.5, 0.5],
        "confidence": 0.25,
        "properties": {"n": 1},
        **times(),
    }
    assert (arcs["arc_confidences"], arcs["confidence"]) == ([0.5, 0.25, 1], 0.125)
    assert arcs["members"] == ["a", "b", "c", "a"]
    assert by_role == {
        "id": "roles",
        "label": "MADE",
        "roles": roles,
        "confidence": 0.7,
        "properties": {},
        **times(),
    }
    assert list(by_role["roles"]) == list(roles)
    assert graph.edges("roles", with_vector=True)[0]["vector"] == [0, 1]
    assert text.items() >= times("2024-05-01T10:00:00.000Z", "2025-01-01T00:00:00.000Z").items()
    assert ms.items() >= times("1969-12-31T23:59:59.999Z", "2025-01-01T00:00:00.123Z").items()
    assert (text["confidence"], text["arc_confidences"]) == (1, [1])


def test_edges_without_ids_are_given_them(shared):
    """Each its own; a request that is repeated under its key writes the same ones."""
    graph = make_graph(shared.url(3), "ids", PLAIN)
    graph.put_nodes(*named("a", "b"))
    edges = [chained("X", "a", "b"), chained("X", "b", "a")]
    free = graph.put_edges(*edges).result["ids"] + graph.put_edges(*edges).result["ids"]
    key = {"Idempotency-Key": f"edges-{uuid.uuid4()}"}
    keyed = [graph.at(url).put_edges(*edges, headers=key).result for url in shared.urls]
    reused = graph.post("edges", {"edges": edges[:1]}, headers=key)
    chain = {"events": named("c", "d")}
    chains = [graph.at(url).post("chain", chain, headers=key).result for url in shared.urls]

    assert len({uuid.UUID(each) for each in free}) == 4
    assert keyed == [keyed[0]] * 3
    assert len({*free, *keyed[0]["ids"]}) == 6
    assert refusal(reused) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert chains == [chains[0]] * 3
    assert graph.describe()["edges"] == 7


def test_texts_are_embedded(shared):
    """The same text is the same vector; a graph of one's own vectors takes no text."""
    graph = make_graph(shared.url(1), "texts")
    graph.put_nodes(*named("a", "b", text="the disk is full"), {"id": "c", "text": "a cat"})
    graph.put_edges(chained("X", "a", "c", id="e", text="the disk is full"))
    one, same, other = (each["vector"] for each in graph.nodes("a", "b", "c", with_vector=True))
    own = make_graph(shared.url(1), "no-texts", PLAIN)
    refused = own.post("nodes", {"nodes": [*named("a"), {"id": "b", "text": "a cat"}]})

    assert len(one) == 256
    assert one == same == graph.edges("e", with_vector=True)[0]["vector"]
    assert one != other
    assert refusal(refused) == (400, "embedding_space_mismatch", "nodes[1].text")


def test_a_batch_is_written_whole_or_not_at_all(shared):
    """One bad element, or one edge to nobody, and nothing of it is stored."""
    graph = make_graph(shared.url(1), "whole", PLAIN)
    graph.put_nodes(*named("a", "b"))
    before = graph.describe()
    bad = graph.post("nodes", {"nodes": [*named("c", "d"), {"id": "e", "vector": [1]}]})
    lonely = graph.post("edges", {"edges": [chained("X", *"ab"), chained("X", "a", "nobody")]})
    taken = chained("X", "a", "b", id="late", confidence=2)
    worse = graph.post("edges", {"edges": [chained("X", *"ab", id="early"), taken]})

    assert refusal(bad) == (400, "bad_request", "nodes[2].vector")
    assert refusal(lonely)[:2] == (409, "graph_conflict")
    assert "nobody" in lonely.body["status"]["error"]
    assert refusal(worse) == (400, "bad_request", "edges[1].confidence")
    assert graph.describe() == before
    assert (graph.nodes("c", "d"), graph.edges("early")) == ([], [])


def test_deleting_nodes_and_edges(shared):
    """A node with edges stays unless they go with it; what does not exist is no error."""
    graph = make_graph(shared.url(2), "deleting", PLAIN)
    graph.put_nodes(*named(*"abcd", vector=[1, 1]))
    graph.put_edges(chained("X", *"ab", id="ab"), chained("X", *"bcd", id="bcd"))
    refused = graph.post("nodes/delete", {"ids": ["d", "b"]})
    graph.ask("edges/delete", ids=["ab", "nothing"])
    alone = graph.ask("nodes/delete", ids=["a", "nobody"])
    cascaded = graph.ask("nodes/delete", ids=["c"], cascade=True)

    assert refusal(refused)[:2] == (409, "graph_conflict")
    assert alone["ids"] == ["a", "nobody"]
    assert cascaded["version"] > alone["version"]
    assert [each["id"] for each in graph.nodes(*"abcd")] == ["b", "d"]
    assert graph.edges("ab", "bcd") == []
    assert [each["id"] for each in graph.ask("recall", vector=[1, 1])["matches"]] == ["b", "d"]


def epoch_ms(moment: str) -> int:
    """Return a moment as an answer has it in milliseconds."""
    parsed = time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S")
    seconds = time.mktime((*parsed[:8], 0)) - time.timezone
    return int(seconds) * 1000 + int(moment[20:23])


def test_an_expired_edge_is_history(shared):
    """It is walked no more, but can be read, and was known at its time."""
    graph = make_graph(shared.url(3), "history", PLAIN)
    graph.put_nodes(*named("a", "b"))
    graph.put_edges(chained("CAUSED_BY", "a", "b", id="e"))
    (before,) = graph.edges("e")
    eventually(lambda: time.time() * 1000 > epoch_ms(before["created_at"]) + 5)
    graph.ask("edges/delete", ids=["e"], expire=True)
    (after,) = graph.edges("e")
    born, gone = epoch_ms(after["created_at"]), epoch_ms(after["expired_at"])

    def known(moment: Any) -> list[list[str]]:
        return ids_of(graph.ask("causes", id="b", known_at=moment)["paths"])

    assert after == {**before, "expired_at": after["expired_at"]}
    assert born < gone
    assert ids_of(graph.ask("causes", id="b")["paths"]) == []
    assert known(born) == known(after["created_at"]) == known(gone - 1) == [["a", "b"]]
    assert known(born - 1) == known(gone) == []
    assert refusal(graph.post("nodes/delete", {"ids": ["a"]}))[:2] == (409, "graph_conflict")
    graph.put_edges(chained("CAUSED_BY", "a", "b", id="e"))
    assert known(None) == [["a", "b"]]


@pytest.mark.parametrize("body", [{"id": "d"}, {"id": "d", "labels": ["CAUSED_BY"]}])
def test_what_held_in_the_world_at_a_time(shared, body):
    """From `valid_at` on, up to but without `invalid_at`, in every question."""
    graph = Graph(shared.url(1), "eras")
    asked(graph.url, "PUT", graph.path, PLAIN)
    graph.put_nodes(*named("a", "b", "c", "d"))
    graph.put_edges(
        chained("CAUSED_BY", "a", "d", id="old", invalid_at="2020-01-01"),
        chained("CAUSED_BY", "b", "d", id="mid", valid_at="2020-01-01", invalid_at="2021-01-01"),
        chained("CAUSED_BY", "c", "d", id="new", valid_at="2021-01-01T00:00:00Z"),
    )
    query = "MATCH (n)-[:CAUSED_BY]->({id: 'd'}) RETURN n.id"
    for moment, cause in (
        ("1900-01-01", "a"),
        ("2019-12-31T23:59:59.999Z", "a"),
        ("2020-01-01T01:00:00+01:00", "b"),
        (1_609_459_199_999, "b"),
        (1_609_459_200_000, "c"),
        ("2999-01-01", "c"),
    ):
        near = graph.ask("khop", ids=["d"], hops=2, direction="in", as_of=moment)
        ranked = graph.ask("algorithms/degree_centrality", as_of=moment, limit=2)["results"]
        drawn = graph.ask("export", format="json", as_of=moment)["content"]["edges"]

        assert ids_of(graph.ask("causes", **body, as_of=moment)["paths"]) == [[cause, "d"]]
        assert near["neighbours"] == [[cause]]
        assert [each["id"] for each in ranked] == [cause, "d"]
        assert [each["members"] for each in drawn] == [[cause, "d"]]
        assert graph.ask("cypher", query=query, as_of=moment)["rows"] == [[cause]]
    assert len(graph.ask("causes", id="d")["paths"]) == 3


def test_a_session_reads_its_writes_on_every_node(shared):
    """Written on one node, read on another with the token, by every kind of question."""
    graph = make_graph(shared.url(1), "session", PLAIN)
    graph.put_nodes({"id": "0", "vector": [1, 0]})
    for turn in range(1, 13):
        writer, reader = graph.at(shared.urls[turn % 3]), graph.at(shared.urls[(turn + 1) % 3])
        last, new = str(turn - 1), str(turn)
        token = writer.put_nodes({"id": new, "vector": [1, turn]}).headers[SESSION]
        edge = chained("CAUSED_BY", last, new, id=f"e{turn}")
        written = reader.put_edges(edge, headers={SESSION: token}).headers[SESSION]
        third = graph.at(shared.urls[(turn + 2) % 3])
        nearest: dict[str, Any] = {"vector": [1, turn], "k": 1, "max_hops": 1}
        query = f"MATCH (a)-[]->({{id: '{new}'}}) RETURN a.id"
        seen = {SESSION: written}

        def shown(what: str, graph: Graph = third, seen: Any = seen, **body: Any) -> Any:
            return graph.post(what, body, headers=seen).result

        assert [each["id"] for each in shown("nodes/get", ids=[new])] == [new]
        assert [each["id"] for each in shown("edges/get", ids=[f"e{turn}"])] == [f"e{turn}"]
        assert ids_of(shown("causes", id=new, max_hops=1)["paths"]) == [[last, new]]
        assert shown("khop", ids=[new], hops=1)["neighbours"] == [[last]]
        assert shown("recall", **nearest)["matches"][0]["id"] == new
        assert shown("cypher", query=query)["rows"] == [[last]]
        told = asked(third.url, "GET", graph.path, headers={SESSION: written}).result
        assert (told["nodes"], told["edges"]) == (turn + 1, turn)


def test_a_cypher_write_is_read_on_another_node(shared):
    """With its token, wherever the query was sent."""
    graph = make_graph(shared.url(1), "cypher-session", PLAIN)
    for turn in range(6):
        query = "MERGE (a:Event {id: $a}) CREATE (a)-[:CAUSED_BY]->(:Event {id: $b, n: $n})"
        parameters = {"a": str(turn), "b": str(turn + 1), "n": turn}
        if turn:
            query = "MATCH (a {id: $a}) CREATE (a)-[:CAUSED_BY]->(:Event {id: $b, n: $n})"
        writer, reader = graph.at(shared.urls[turn % 3]), graph.at(shared.urls[(turn + 1) % 3])
        answer = writer.post("cypher", {"query": query, "parameters": parameters})
        token = answer.headers[SESSION]
        (found,) = reader.post(
            "nodes/get", {"ids": [str(turn + 1)]}, headers={SESSION: token}
        ).result

        assert answer.result["stats"]["relationships_created"] == 1
        assert found == {"id": str(turn + 1), "labels": ["Event"], "properties": {"n": turn}}


def everything(graph: Graph) -> Any:
    """Return all that a graph holds, and what it answers."""
    content = graph.ask("export", format="json")["content"]
    told = graph.describe()
    recalled = graph.ask("recall", vector=[1, 0, 1, 0, 0, 0, 0, -1], limit=100)["results"]
    useful = [(each["node"]["id"], round(each["utility"], 5)) for each in recalled]
    return told, content, useful, graph.ask("causes", id="event-10", limit=100)


def test_a_restart_of_all_nodes_keeps_the_graph(tmp_path: Path) -> None:
    """After kill -9 of every node each of them serves what was there before, and takes writes."""
    cluster = start_cluster(tmp_path)
    try:
        await_ready(cluster)
        graph = stored(random_twin(5), cluster.url(1), "kept")
        graph.ask("edges/delete", ids=["edge-03"], expire=True)
        before = everything(graph)
        for node in (1, 2, 3):
            cluster.kill(node)
        cluster.stop()
        cluster = start_cluster(tmp_path, port=cluster.port)
        await_ready(cluster)
        for url in cluster.urls:
            assert everything(graph.at(url)) == before
        graph.put_edges(chained("CAUSED_BY", "event-00", "event-41", id="new"))
        assert graph.describe()["edges"] == before[0]["edges"] + 1
    finally:
        cluster.stop()
