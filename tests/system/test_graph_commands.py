"""The commands for graphs against a real node: from an empty graph to a picture of a full one."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import running_cluster

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

EVENTS = ("leak", "full", "down")
LINES = [
    {"edge": {"id": "e", "label": "CAUSED_BY", "members": EVENTS, "arc_confidences": [0.9, 0.5]}},
    *({"node": {"id": name, "labels": ["Event"], "properties": {"type": name}}} for name in EVENTS),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One node for all tests of this file."""
    with running_cluster(tmp_path_factory.mktemp("graphs"), nodes=1) as running:
        yield running


@pytest.fixture
def graph(cluster, tmp_path):
    """Runs `recollect graph ...` as a process; it has to succeed unless told otherwise."""

    def call(*words, code=0, text=""):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cluster.cli", "graph", *words],
            env=dict(os.environ) | {"RECOLLECT_URL": cluster.url(1)},
            cwd=tmp_path,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return call


def test_from_nothing_to_a_picture(graph, tmp_path):
    """A graph is created, loaded, asked, drawn, exported and dropped."""
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(line) for line in LINES))
    graph("create", "incidents", "--no-vectors", "--index", "Event.type")
    graph("load", "incidents", "events.jsonl")
    graph("chain", "incidents", "down:down", "angry:customer", "--confidence", "1")
    listed = json.loads(graph("list", "--json").stdout)
    causes = json.loads(graph("causes", "incidents", "angry", "--json").stdout)["paths"]
    query = "MATCH (a:Event {type: $type})-[r:CAUSED_BY*]->(b) RETURN b.id, size(r) ORDER BY b.id"
    rows = json.loads(graph("cypher", "incidents", query, "--param", "type=leak", "--json").stdout)[
        "rows"
    ]
    graph("draw", "incidents", "--around", "full", "--hops", "2", "-o", "out.svg")
    graph("export", "incidents", "-o", "out.json")

    assert [(each["name"], each["nodes"], each["edges"]) for each in listed] == [
        ("incidents", 4, 2)
    ]
    assert [(len(path["nodes"]), path["chain_confidence"]) for path in causes] == [
        (2, 1.0),
        (3, 0.5),
        (4, pytest.approx(0.45)),
    ]
    assert rows == [["angry", 3], ["down", 2], ["full", 1]]
    assert "<svg" in (tmp_path / "out.svg").read_text()
    assert len(json.loads((tmp_path / "out.json").read_text())["edges"]) == 2
    assert "4 nodes" in graph("drop", "incidents", text="n\n", code=1).stderr
    assert graph("drop", "incidents", text="y\n").stdout == "Dropped graph incidents\n"


def test_import_and_recall(graph, tmp_path):
    """Sources become a graph in which a text finds what it means, and how that hangs together."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "animals.py").write_text(
        '"""Pets that live in a house."""\nimport money\n'
        'class Cat:\n    """A small animal that meows."""\n'
    )
    (tmp_path / "src" / "money.py").write_text('"""Interest rates and bank accounts."""\n')
    graph("import-stdlib", "python", "--folder", "src")
    found = json.loads(graph("recall", "python", "a kitten", "--json").stdout)["results"]
    around = graph("khop", "python", "animals", "--hops", "1")
    ranked = graph("algorithm", "python", "pagerank", "--json")

    assert found[0]["node"]["id"] == "animals.Cat"
    assert sorted(around.stdout.split()) == ["animals.Cat", "money"]
    assert json.loads(ranked.stdout)["count"] == 3
    assert (
        json.loads(graph("import-stdlib", "python", "--folder", "src", "--json").stdout)["nodes"]
        == 3
    )


def test_refusals_are_sentences(graph, tmp_path):
    """What the node refuses reaches the person as its sentence, with code 1."""
    (tmp_path / "bad.jsonl").write_text(json.dumps(LINES[0]))
    graph("create", "empty", "--no-vectors")
    lacking = graph("load", "empty", "bad.jsonl", code=1)
    unknown = graph("algorithm", "empty", "magic", code=1)

    assert graph("show", "absent", code=1).stderr.startswith("Error: ")
    assert "leak" in lacking.stderr
    assert "(0 edges were written)" in lacking.stderr
    assert "pagerank" in unknown.stderr
