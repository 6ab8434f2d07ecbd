"""The commands for graphs against a stand-in for a node that notes what it was asked."""

import io
import json
import os
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cluster.cli import run
from cluster.commands.graph import graph
from cluster.commands.graph_cells import caption, cell, cut
from cluster.commands.graph_options import parsed_parameters
from cluster.commands.graph_sending import BYTES_MAX, ELEMENTS_MAX, batches
from tests.stand_in_node import stand_in_node

COMMANDS = [command.name for command in graph.registered_commands]
NODES, EDGES = "/graph/g/nodes", "/graph/g/edges"
WRITTEN = (200, {"ids": [], "version": 3})
SHAPE = {
    "name": "g",
    "vectors": {"size": 256, "distance": "Cosine"},
    "embedding_space": "s",
    "indexes": ["Event.type"],
    "shard": 4,
    "nodes": 1234,
    "edges": 5,
    "version": 99,
}


def node_shape(node_id, /, **properties):
    return {"id": node_id, "labels": ["Event"], "properties": properties}


def arc_shape(source, target, label="CAUSED_BY"):
    return {
        "hyperedge_id": f"{source}-{target}",
        "type": label,
        "source": source,
        "target": target,
        "confidence": 0.9,
    }


CHAIN: dict[str, Any] = {
    "nodes": [node_shape("a", type="root_cause"), node_shape("b"), node_shape("c", type="c")],
    "edges": [arc_shape("a", "b"), arc_shape("b", "c", "LEADS_TO")],
    "chain_confidence": 0.72,
}


@pytest.fixture
def node():
    with stand_in_node() as server:
        server.answer("GET", "/graph/g", (200, SHAPE))
        server.answer("POST", NODES, WRITTEN)
        server.answer("POST", EDGES, WRITTEN)
        yield server


@pytest.fixture
def recollect(capsys, monkeypatch, node):
    """Runs `recollect graph ...` against the stand-in; gives code, out and err."""
    for name in list(os.environ):
        if name.startswith("RECOLLECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RECOLLECT_URL", node.url)

    def call(*words):
        code = run(["graph", *(str(word) for word in words)])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return SimpleNamespace(code=code, out=shown.out, err=shown.err)

    return call


@pytest.fixture
def lines(tmp_path):
    """Writes elements as a file of JSON lines."""

    def write(*elements):
        file = tmp_path / "graph.jsonl"
        file.write_text("\n".join(json.dumps(each) for each in elements))
        return file

    return write


def squeezed(text):
    """Return the lines of a table with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def a_node(name, **more):
    return {"node": {"id": name, **more}}


def an_edge(*members, **more):
    return {"edge": {"label": "CAUSED_BY", "members": list(members), **more}}


class TestTheWhole:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, recollect, command):
        """Each command's help ends with a way to use it."""
        shown = recollect(command, "--help")

        assert shown.code == 0
        assert "Example" in shown.out
        assert f"recollect graph {command}" in shown.out

    def test_unknown_graph(self, recollect, node):
        """A graph that is not there is a sentence, and a hint where to look."""
        refusal = {"code": "graph_not_found", "sentence": "there is no graph 'h'"}
        node.answer("GET", "/graph/h", (404, refusal))
        shown = recollect("show", "h")

        assert shown.code == 1
        assert shown.err.splitlines() == [
            "Error: there is no graph 'h'",
            "Hint: `recollect graph list` lists the graphs",
        ]

    def test_name_is_one_segment(self, recollect, node):
        """A name cannot lead out of its place in a URL."""
        recollect("show", "../collections")

        assert node.asked[0][1] == "/graph/..%2Fcollections"


class TestShape:
    @pytest.mark.parametrize(
        ("words", "body"),
        [
            ([], {}),
            (["--no-vectors"], {"vectors": None}),
            (["--size", 8], {"vectors": {"size": 8, "distance": "Cosine"}}),
            (
                ["--size", 8, "--distance", "Dot", "--index", "A.b", "--index", "C.d"],
                {"vectors": {"size": 8, "distance": "Dot"}, "indexes": ["A.b", "C.d"]},
            ),
        ],
    )
    def test_create(self, recollect, node, words, body):
        """Options become the body that creates a graph."""
        node.answer("PUT", "/graph/g", (200, {"name": "g", "created": True}))
        shown = recollect("create", "g", *words)

        assert shown.out == "Created graph g\n"
        assert node.bodies("/graph/g") == [body]

    @pytest.mark.parametrize(
        "words", [["--no-vectors", "--size", 8], ["--distance", "Dot"], ["--size", 0]]
    )
    def test_create_with_contradictions(self, recollect, node, words):
        """Options that contradict each other are a mistake in the command line."""
        assert recollect("create", "g", *words).code == 2
        assert node.asked == []

    def test_list(self, recollect, node):
        """Graphs are listed with their sizes; one that was dropped meanwhile is left out."""
        node.answer("GET", "/graph", (200, {"graphs": [{"name": "g"}, {"name": "gone"}]}))
        node.answer("GET", "/graph/gone", (404, {"code": "graph_not_found"}))

        assert squeezed(recollect("list").out)[-1] == "g 1,234 5 256 x Cosine 4"
        assert json.loads(recollect("list", "--json").out) == [SHAPE]

    def test_show(self, recollect, node):
        """A graph's parameters and sizes are shown."""
        shown = recollect("show", "g")

        assert "Nodes 1,234" in squeezed(shown.out)
        assert json.loads(recollect("show", "g", "--json").out) == SHAPE

    def test_drop(self, recollect, node, monkeypatch):
        """Dropping asks before it does it, unless it is told not to."""
        node.answer("DELETE", "/graph/g", (200, True))
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        refused = recollect("drop", "g")

        assert refused.code == 1
        assert "1,234 nodes" in refused.err
        assert [asked[0] for asked in node.asked] == ["GET"]
        assert recollect("drop", "g", "--yes").out == "Dropped graph g\n"


class TestLoad:
    def test_nodes_come_before_edges(self, recollect, node, lines):
        """Wherever they stand in the file, all nodes are written before the first edge."""
        shown = recollect("load", "g", lines(an_edge("a", "b"), a_node("a"), a_node("b")))
        paths = [path for method, path, *_ in node.asked if method == "POST"]

        assert shown.out.startswith("Loaded 2 nodes in ")
        assert shown.err == ""
        assert paths == [NODES, EDGES]
        assert node.bodies(NODES) == [{"nodes": [{"id": "a"}, {"id": "b"}]}]
        assert node.bodies(EDGES) == [{"edges": [an_edge("a", "b")["edge"]]}]

    def test_the_last_line_of_an_id_counts(self, recollect, node, lines):
        """What a later line replaces is not sent, as batches may overtake each other."""
        recollect("load", "g", lines(a_node("a", labels=["Old"]), a_node("b"), a_node("a")))

        assert node.bodies(NODES) == [{"nodes": [{"id": "b"}, {"id": "a"}]}]

    @pytest.mark.parametrize(
        "bad", ["{", "[]", "{}", '{"point": {}}', '{"node": 3}', '{"node":{}}']
    )
    def test_bad_line_writes_nothing(self, recollect, node, tmp_path, bad):
        """A bad line is named, and not even the good ones before it are sent."""
        file = tmp_path / "lines"
        file.write_text(json.dumps(a_node("a")) + "\n\n" + bad)
        shown = recollect("load", "g", file)

        assert shown.code == 1
        assert "line 3 is" in shown.err
        assert "nothing was written" in shown.err
        assert node.asked == []

    def test_repeated_batch_has_the_same_key(self, recollect, node, lines):
        """A batch that the node could not write now is sent again, as the same request."""
        busy = {"code": "overloaded", "retryable": True, "retry_after": "0.01"}
        node.answer("POST", NODES, (503, busy), WRITTEN)
        shown = recollect("load", "g", lines(a_node("a")))
        keys = [headers["Idempotency-Key"] for _, path, _, headers in node.asked if path == NODES]

        assert shown.code == 0
        assert len(keys) == 2
        assert keys[0] == keys[1]

    def test_batch_that_is_too_large_is_halved(self, recollect, node, lines):
        """A batch beyond what a log entry takes is divided, each half under its own key."""
        node.answer("POST", NODES, (413, {"code": "payload_too_large"}), WRITTEN)
        shown = recollect("load", "g", lines(*(a_node(name) for name in "abc"), an_edge("a", "b")))
        keys = {headers.get("Idempotency-Key") for *_, headers in node.asked}

        assert shown.code == 0
        assert [len(body["nodes"]) for body in node.bodies(NODES)] == [3, 1, 2]
        assert len(keys) == 5  # four writes, and the question whether there is such a graph

    def test_one_element_that_is_too_large(self, recollect, node, lines):
        """What cannot be divided is refused."""
        node.answer("POST", NODES, (413, {"code": "payload_too_large", "sentence": "too large"}))
        shown = recollect("load", "g", lines(a_node("a"), a_node("b")))

        assert shown.code == 1
        assert "too large (0 nodes were written)" in shown.err

    def test_refusal_names_the_element(self, recollect, node, lines):
        """A refusal says whose fault it is by id, and how much was written before."""
        refusal = {"code": "bad_request", "field": "edges[1].label", "sentence": "too long"}
        node.answer("POST", EDGES, (400, refusal))
        edges = [an_edge("a", "b", id="first"), an_edge("a", "b", id="second")]
        shown = recollect("load", "g", lines(a_node("a"), *edges))

        assert shown.code == 1
        assert "edges[1].label: too long [id second] (0 edges were written)" in shown.err

    def test_load_as_json(self, recollect, lines):
        """With --json a program reads how many there were, and how long it took."""
        told = json.loads(recollect("load", "g", lines(a_node("a")), "--json").out)

        assert (told["nodes"], told["edges"]) == (1, 0)
        assert told["nodes_seconds"] >= 0

    def test_batches_are_measured_in_bytes(self):
        """No batch is larger than a request may be, none has too many elements, nothing is lost."""
        elements = [{"id": str(number), "text": "x" * (number % 3000)} for number in range(9000)]
        found = list(batches(elements))

        assert [orjson.loads(raw) for batch in found for raw in batch] == elements
        assert max(sum(map(len, batch)) for batch in found) <= BYTES_MAX
        assert max(map(len, found)) <= ELEMENTS_MAX
        assert min(sum(map(len, batch)) for batch in found[:-1]) > BYTES_MAX / 2

    def test_element_larger_than_a_batch(self):
        """An element that is larger than a batch is one by itself: the node decides."""
        found = list(batches([{"id": "a"}, {"id": "x" * BYTES_MAX}, {"id": "b"}]))

        assert [len(batch) for batch in found] == [1, 1, 1]


class TestAsking:
    @pytest.mark.parametrize("command", ["causes", "effects"])
    def test_chains(self, recollect, node, command):
        """A chain is one line with its confidence and the labels of its edges."""
        found = {"paths": [CHAIN], "truncated": True}
        node.answer("POST", f"/graph/g/{command}", (200, found))
        shown = recollect(command, "g", "c", "--max-hops", 3, "--label", "X")
        (body,) = node.bodies(f"/graph/g/{command}")

        assert squeezed(shown.out)[-1] == "0.720 a (root_cause) → b → c CAUSED_BY, LEADS_TO"
        assert "Cut short" in shown.err
        assert body == {"id": "c", "max_hops": 3, "limit": 10, "labels": ["X"]}
        assert json.loads(recollect(command, "g", "c", "--json").out) == found

    def test_no_causes(self, recollect, node):
        """That nothing led to a node is an answer, too."""
        node.answer("POST", "/graph/g/causes", (200, {"paths": [], "truncated": False}))
        shown = recollect("causes", "g", "c")

        assert shown.out == "No causes of c are known\n"

    def test_khop(self, recollect, node):
        """Neighbours are lines of ids, for a pipe; their number goes elsewhere."""
        found = {"neighbours": [["a", "b"]], "truncated": False}
        node.answer("POST", "/graph/g/khop", (200, found))
        shown = recollect("khop", "g", "c", "--hops", 2, "--direction", "out")

        assert shown.out == "a\nb\n"
        assert shown.err == "2 nodes are within 2 hops of c\n"
        assert node.bodies("/graph/g/khop") == [{"ids": ["c"], "hops": 2, "direction": "out"}]

    def test_recall(self, recollect, node):
        """What comes to mind is shown with the reason why."""
        why = {"matched": "a", "kind": "node", "similarity": 0.5, "chain_confidence": 0.8}
        results = [
            {"node": CHAIN["nodes"][0], "utility": 0.35, "why": {**why, "direction": "match"}},
            {
                "node": CHAIN["nodes"][1],
                "utility": 0.28,
                "why": {**why, "direction": "effect", "path": ["a", "b"]},
            },
        ]
        found = {"results": results, "matches": [], "truncated": False}
        node.answer("POST", "/graph/g/recall", (200, found))
        shown = recollect("recall", "g", "disk full", "-k", 2)

        assert squeezed(shown.out)[-2:] == [
            "0.350 a root_cause 0.50 alike",
            "0.280 b - effect: a → b (0.80 sure), 0.50 alike",
        ]
        assert node.bodies("/graph/g/recall")[0]["limit"] == 2

    def test_cypher(self, recollect, node):
        """Rows are a table of what they hold, and a limit that cut them short is told apart."""
        row = [CHAIN["nodes"][0], arc_shape("a", "b"), [1, "x"], None, 0.5]
        found = {
            "columns": ["n", "r", "l", "z", "f"],
            "rows": [row],
            "truncated": True,
            "truncated_by": "rows",
        }
        node.answer("POST", "/graph/g/cypher", (200, found))
        shown = recollect("cypher", "g", "RETURN 1", "--param", "id=n1", "--limit", 1)
        sent = {"query": "RETURN 1", "limit": 1, "parameters": {"id": "n1"}}

        assert node.bodies("/graph/g/cypher") == [sent]
        assert squeezed(shown.out)[-1] == ("a (root_cause) a -[CAUSED_BY 0.9]→ b [1, x] - 0.500")
        assert shown.err == "Cut short: there are more rows: raise --limit\n"

    def test_cypher_that_writes(self, recollect, node):
        """A query that changes something says what."""
        stats = {"nodes_created": 2, "labels_added": 1, "nodes_deleted": 0}
        answer = {"columns": [], "rows": [], "truncated": False, "stats": stats}
        node.answer("POST", "/graph/g/cypher", (200, answer))
        shown = recollect("cypher", "g", "CREATE (a)")

        assert shown.out == ""
        assert shown.err == "Nodes created: 2, labels added: 1\n"

    def test_plan(self, recollect, node):
        """EXPLAIN shows the steps of a query."""
        plan = [{"operator": "Expand", "details": "(a)-[r]->(b)"}]
        answer = {"columns": [], "rows": [], "truncated": False, "plan": plan}
        node.answer("POST", "/graph/g/cypher", (200, answer))

        assert squeezed(recollect("cypher", "g", "EXPLAIN x").out)[-1] == "Expand (a)-[r]->(b)"

    def test_algorithm(self, recollect, node):
        """Results are a table whose columns depend on the algorithm."""
        path = "/graph/g/algorithms/shortest_path"
        result = {**CHAIN, "hops": 2}
        found = {"results": [result], "count": 1, "nodes": 3, "arcs": 2, "truncated": False}
        node.answer("POST", path, (200, found))
        words = ("--param", "source=a", "--param", "weighted=false")
        shown = recollect("algorithm", "g", "shortest_path", *words)

        assert squeezed(shown.out)[0] == "Nodes Edges Chain confidence Hops"
        assert squeezed(shown.out)[-1].startswith("a (root_cause) → b → c CAUSED_BY, LEADS_TO")
        assert node.bodies(path)[0]["parameters"] == {"source": "a", "weighted": False}

    def test_chain(self, recollect, node):
        """Events are given as id and type, the first cause first."""
        added = {"edge": "e", "events": ["a", "urn:b"], "chain_confidence": 0.5, "version": 1}
        node.answer("POST", "/graph/g/chain", (200, added))
        shown = recollect("chain", "g", "a", "urn:b:outage", "--confidence", 0.5)
        events = [{"id": "a"}, {"id": "urn:b", "type": "outage"}]

        assert shown.out == "a → urn:b  (confidence 0.5)\n"
        assert node.bodies("/graph/g/chain") == [{"events": events, "confidences": [0.5]}]

    @pytest.mark.parametrize(
        "words",
        [
            ("chain", "g", "alone"),
            ("chain", "g", "a:", "b"),
            ("chain", "g", "a", "b", "--confidence", "1", "--confidence", "1"),
            ("chain", "g", "a", "b", "--confidence", "2"),
            ("cypher", "g", "RETURN 1", "--param", "x"),
            ("cypher", "g", "RETURN 1", "--param", "x=1", "--param", "x=2"),
        ],
    )
    def test_wrong_command_line(self, recollect, node, words):
        """What cannot be meant is refused before anything is sent."""
        assert recollect(*words).code == 2
        assert node.asked == []

    def test_parameters(self):
        """A value is JSON where it is, and text where it is not."""
        given = ["n=3", "t=n1", 's="3"', "l=[1]", "e=", "q=a=b"]

        assert parsed_parameters(given) == {
            "n": 3,
            "t": "n1",
            "s": "3",
            "l": [1],
            "e": "",
            "q": "a=b",
        }


class TestFiles:
    def test_draw(self, recollect, node, tmp_path):
        """A picture is written as it came."""
        content = {"format": "svg", "content": "<svg>ä</svg>", "truncated": True}
        node.answer("POST", "/graph/g/export", (200, content))
        file = tmp_path / "out.svg"
        shown = recollect("draw", "g", "--around", "a", "--around", "b", "--hops", 2, "-o", file)
        sent = {"format": "svg", "around": ["a", "b"], "hops": 2, "direction": "both"}

        assert shown.out == f"Wrote {file} (1 KiB)\n"
        assert "only a part" in shown.err
        assert file.read_text() == "<svg>ä</svg>"
        assert node.bodies("/graph/g/export") == [sent]

    def test_export(self, recollect, node, tmp_path):
        """A whole graph is written in the form of the file's name."""
        content = {"format": "json", "content": {"nodes": []}, "truncated": False}
        node.answer("POST", "/graph/g/export", (200, content))
        file = tmp_path / "out.JSON"
        told = json.loads(recollect("export", "g", "-o", file, "--json").out)

        assert told == {"file": str(file), "format": "json", "bytes": 12, "truncated": False}
        assert json.loads(file.read_text()) == {"nodes": []}
        assert node.bodies("/graph/g/export") == [{"format": "json"}]

    def test_ending_that_is_none(self, recollect, node, tmp_path):
        """A file of another kind is refused, and the kinds are named."""
        shown = recollect("export", "g", "-o", tmp_path / "out.png")

        assert shown.code == 2
        assert ".svg, .graphml, .json" in shown.err
        assert node.asked == []


class TestImports:
    def test_stdlib(self, recollect, node, tmp_path):
        """The graph is created, and what a folder of sources holds is written."""
        node.answer("PUT", "/graph/g", (200, {"name": "g", "created": True}))
        (tmp_path / "one.py").write_text('"""First."""\ndef two(): pass\n')
        shown = recollect("import-stdlib", "g", "--folder", tmp_path)
        (sent,) = node.bodies(NODES)

        assert shown.out.startswith("Loaded 2 nodes")
        assert "vectors" not in node.bodies("/graph/g")[0]
        assert [each.get("text") for each in sent["nodes"]] == ["First.", None]

    def test_stdlib_without_vectors(self, recollect, node, tmp_path):
        """Without vectors no text is sent to be embedded."""
        node.answer("PUT", "/graph/g", (200, {"name": "g", "created": True}))
        (tmp_path / "one.py").write_text('"""First."""\n')
        recollect("import-stdlib", "g", "--folder", tmp_path, "--no-vectors")

        assert node.bodies("/graph/g")[0]["vectors"] is None
        assert "text" not in node.bodies(NODES)[0]["nodes"][0]

    def test_wordnet_that_is_none(self, recollect, node, tmp_path):
        """A folder that lacks files is refused before a graph is made."""
        shown = recollect("import-wordnet", "g", tmp_path)

        assert shown.code == 1
        assert "has no docs.jsonl.gz and no vectors.f16.npy and no edges.jsonl.gz" in shown.err
        assert node.asked == []


class TestCells:
    def test_caption(self):
        """A node is named where its id does not say enough."""
        assert caption(node_shape("json.decoder", name="decoder")) == "json.decoder"
        assert caption(node_shape("n1", name="entity")) == "n1 (entity)"
        assert caption(node_shape("n1", name=3, type=" x ")) == "n1 (x)"

    def test_path(self):
        """A path is its nodes in a row."""
        path = {"nodes": CHAIN["nodes"][:2], "relationships": [], "length": 1}

        assert cell([path, {"k": True}]) == "[a (root_cause) → b, {k: true}]"

    def test_cut(self):
        """A long text is cut, its lines are one."""
        assert cut("a\nb", 5) == "a b"
        assert cut("abcdef", 5) == "abcd…"
        assert cell("x" * 1000) == "x" * 159 + "…"
