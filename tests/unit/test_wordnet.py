"""WordNet's files as nodes and edges, on a small folder of the same form."""

import gzip
import json

import numpy as np
import pytest

from cluster.errors import CommandFailed
from cluster.wordnet import LABELS, WordNet

DOCS = [
    {"id": "v1", "pos": "verb", "lex": 30, "words": ["anaesthetize", "numb"], "text": "put out"},
    {"id": "v2", "pos": "verb", "lex": 30, "words": ["sleep"], "text": "be asleep"},
    {"id": "s3", "pos": "adj", "lex": 0, "words": ["sleepy"], "text": "ready to sleep"},
]
EDGES = [
    ["v1", ">", "v2"],
    ["v2", "+", "a3"],
    ["v2", "+", "s3"],
    ["s3", "\\", "v2"],
]


@pytest.fixture
def folder(tmp_path):
    """Writes a folder; gives what to write it anew with."""

    def write(docs=DOCS, edges=EDGES, rows=3):
        for name, lines in (("docs", docs), ("edges", edges)):
            with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        matrix = np.random.default_rng(1).normal(size=(rows, 8)).astype(np.float16)
        np.save(tmp_path / "vectors.f16.npy", matrix)
        return tmp_path

    write()
    return write


def test_nodes(folder):
    """A synset has its words, the first as its name, and a vector of length 1."""
    wordnet = WordNet(folder())
    nodes = list(wordnet.nodes())

    assert [node["id"] for node in nodes] == ["v1", "v2", "s3"]
    assert nodes[0]["labels"] == ["Synset"]
    assert nodes[0]["properties"] == {
        "pos": "verb",
        "lex": 30,
        "words": ["anaesthetize", "numb"],
        "text": "put out",
        "name": "anaesthetize",
    }
    lengths = [np.linalg.norm(node["vector"]) for node in nodes]
    assert lengths == pytest.approx([1, 1, 1], abs=1e-4)
    assert wordnet.dimension == len(nodes[0]["vector"]) == 8


def test_vectors_keep_their_direction(folder):
    """What rounding costs is less than what half precision has cost before."""
    place = folder()
    stored = np.load(place / "vectors.f16.npy").astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    sent = np.array([node["vector"] for node in WordNet(place).nodes()])

    assert np.abs(sent - stored).max() < 1e-5


def test_edges(folder):
    """Labels are words, satellites are found, and a repeated relation is an edge of its own."""
    wordnet = WordNet(folder())
    edges = list(wordnet.edges())

    assert [(edge["id"], edge["label"], edge["members"]) for edge in edges] == [
        ("v1 > v2", "CAUSES", ["v1", "v2"]),
        ("v2 + s3", "DERIVATIONALLY_RELATED", ["v2", "s3"]),
        ("v2 + s3 2", "DERIVATIONALLY_RELATED", ["v2", "s3"]),
        ("s3 \\ v2", "PERTAINS_TO", ["s3", "v2"]),
    ]
    assert (wordnet.node_count, wordnet.edge_count) == (3, 4)


def test_labels_are_different():
    """No two symbols share a label."""
    assert len(set(LABELS.values())) == len(LABELS) == 26


@pytest.mark.parametrize("name", ["docs.jsonl.gz", "vectors.f16.npy", "edges.jsonl.gz"])
def test_missing_file(folder, name):
    """A folder that lacks a file is refused, and the file is named."""
    place = folder()
    (place / name).unlink()

    with pytest.raises(CommandFailed, match=f"has no {name}"):
        WordNet(place)


def test_unknown_symbol(folder):
    """A pointer symbol that WordNet does not have is refused."""
    with pytest.raises(CommandFailed, match="pointer symbol '\\?'"):
        WordNet(folder(edges=[["v1", "?", "v2"]]))


def test_unknown_node(folder):
    """A relation to nothing is refused."""
    with pytest.raises(CommandFailed, match="names 'v9'"):
        list(WordNet(folder(edges=[["v1", "@", "v9"]])).edges())


def test_vector_without_direction(folder):
    """A vector of zeros means nothing."""
    place = folder()
    np.save(place / "vectors.f16.npy", np.zeros((3, 8), np.float16))

    with pytest.raises(CommandFailed, match="without a direction"):
        list(WordNet(place).nodes())


@pytest.mark.parametrize("matrix", [np.zeros(3, np.float16), np.zeros((3, 8), np.int8)])
def test_vectors_that_are_none(folder, matrix):
    """Something else than a row of numbers a node is refused."""
    place = folder()
    np.save(place / "vectors.f16.npy", matrix)

    with pytest.raises(CommandFailed, match="not a matrix"):
        WordNet(place)


def test_vectors_of_something_else(folder):
    """Vectors that are not one for each line belong to other texts."""
    with pytest.raises(CommandFailed, match="one row for each line"):
        WordNet(folder(rows=2))


@pytest.mark.parametrize("name", ["docs.jsonl.gz", "edges.jsonl.gz", "vectors.f16.npy"])
@pytest.mark.parametrize(
    "content",
    [b"none", gzip.compress(b"{", mtime=0), gzip.compress(b"[]", mtime=0)[:-6]],
    ids=["other", "cut in JSON", "cut in gzip"],
)
def test_damaged_file(folder, name, content):
    """A file that cannot be read is a sentence that names it."""
    place = folder()
    (place / name).write_bytes(content)

    with pytest.raises(CommandFailed, match=f"{name} is damaged"):
        WordNet(place)
