"""WordNet as a graph: a node is a set of words that mean the same, an edge relates two of them.

The folder has one line a node in docs.jsonl.gz, its vector in the same row of vectors.f16.npy, and
one line a relation in edges.jsonl.gz: source, pointer symbol, target. A symbol says what the target
is to the source; it becomes the edge's label in words.

Satellite adjectives are kept under `s...`, and relations name them `a...`, as WordNet's own files
do: an id that is no node's is looked for under the other letter. A relation holds between words, so
two nodes may have the same one many times; each is an edge of its own.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np

from cluster.errors import CommandFailed

DOCS: Final = "docs.jsonl.gz"
VECTORS: Final = "vectors.f16.npy"
RELATIONS: Final = "edges.jsonl.gz"

LABELS: Final = {
    "@": "HYPERNYM",
    "@i": "INSTANCE_HYPERNYM",
    "~": "HYPONYM",
    "~i": "INSTANCE_HYPONYM",
    "#m": "MEMBER_HOLONYM",
    "#s": "SUBSTANCE_HOLONYM",
    "#p": "PART_HOLONYM",
    "%m": "MEMBER_MERONYM",
    "%s": "SUBSTANCE_MERONYM",
    "%p": "PART_MERONYM",
    "!": "ANTONYM",
    "=": "ATTRIBUTE",
    "+": "DERIVATIONALLY_RELATED",
    "*": "ENTAILS",
    ">": "CAUSES",
    "^": "ALSO_SEE",
    "$": "VERB_GROUP",
    "&": "SIMILAR_TO",
    "<": "PARTICIPLE_OF",
    "\\": "PERTAINS_TO",
    ";c": "DOMAIN_TOPIC",
    ";r": "DOMAIN_REGION",
    ";u": "DOMAIN_USAGE",
    "-c": "TOPIC_MEMBER",
    "-r": "REGION_MEMBER",
    "-u": "USAGE_MEMBER",
}
OTHER_LETTER: Final = {"a": "s", "s": "a"}
DIGITS: Final = 5
"""Decimals of a vector's elements as JSON: finer than half precision is where they lie."""
ROWS_AT_ONCE: Final = 1024

T = TypeVar("T")


class Doc(msgspec.Struct):
    """A line of the nodes' file."""

    id: str
    pos: str
    lex: int
    words: Annotated[list[str], msgspec.Meta(min_length=1)]
    text: str


class Relation(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A line of the relations' file: what the target is to the source."""

    source: str
    symbol: str
    target: str


class WordNet:
    """A folder that was read, its vectors left on disk. Raises CommandFailed unless it is whole."""

    def __init__(self, folder: Path) -> None:
        _require_files(folder)
        self._docs = list(_lines(folder / DOCS, Doc))
        self._relations = list(_lines(folder / RELATIONS, Relation))
        self._vectors = _matrix(folder / VECTORS)
        self._known = dict.fromkeys(doc.id for doc in self._docs)
        if len(self._vectors) != len(self._docs):
            raise _unfit(f"{VECTORS} has not one row for each line of {DOCS}")
        for relation in self._relations:
            if relation.symbol not in LABELS:
                what = f"{RELATIONS} has the pointer symbol '{relation.symbol}', which is unknown"
                raise _unfit(what)

    @property
    def dimension(self) -> int:
        """Return the size of the vectors."""
        return int(self._vectors.shape[1])

    @property
    def node_count(self) -> int:
        """Return how many nodes there are."""
        return len(self._docs)

    @property
    def edge_count(self) -> int:
        """Return how many edges there are."""
        return len(self._relations)

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield the nodes as the API takes them."""
        for start in range(0, len(self._docs), ROWS_AT_ONCE):
            vectors = _as_sent(self._vectors[start : start + ROWS_AT_ONCE])
            docs = self._docs[start : start + ROWS_AT_ONCE]
            for doc, vector in zip(docs, vectors, strict=True):
                properties = msgspec.to_builtins(doc) | {"name": doc.words[0]}
                del properties["id"]
                yield {
                    "id": doc.id,
                    "labels": ["Synset"],
                    "properties": properties,
                    "vector": vector,
                }

    def edges(self) -> Iterator[dict[str, Any]]:
        """Yield the edges as the API takes them. Raises CommandFailed for an unknown node."""
        times: dict[str, int] = {}
        for relation in self._relations:
            source, target = self._found(relation.source), self._found(relation.target)
            name = f"{source} {relation.symbol} {target}"
            times[name] = count = times.get(name, 0) + 1
            yield {
                "id": name if count == 1 else f"{name} {count}",
                "label": LABELS[relation.symbol],
                "members": [source, target],
            }

    def _found(self, name: str) -> str:
        if name in self._known:
            return name
        other = OTHER_LETTER.get(name[:1], "") + name[1:]
        if other not in self._known:
            raise _unfit(f"{RELATIONS} names '{name}', which is not in {DOCS}")
        return other


def _require_files(folder: Path) -> None:
    lacking = [name for name in (DOCS, VECTORS, RELATIONS) if not (folder / name).is_file()]
    if lacking:
        raise _unfit(f"{folder} has no {' and no '.join(lacking)}")


def _lines(file: Path, kind: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(kind)
    try:
        with gzip.open(file, "rb") as lines:
            for line in lines:
                yield decoder.decode(line)
    except (OSError, EOFError, msgspec.MsgspecError) as error:
        raise _unfit(f"{file} is damaged ({error})") from None


def _matrix(file: Path) -> Any:
    try:
        matrix = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise _unfit(f"{file} is damaged ({error})") from None
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise _unfit(f"{VECTORS} is not a matrix of numbers")
    return matrix


def _as_sent(rows: Any) -> list[list[float]]:
    """Return vectors of length 1, as short as they are in JSON."""
    wide = rows.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise _unfit(f"{VECTORS} has a vector without a direction")
    vectors: list[list[float]] = np.round((wide / lengths).astype(np.float64), DIGITS).tolist()
    return vectors


def _unfit(what: str) -> CommandFailed:
    return CommandFailed(
        what,
        hint=f"the folder has {DOCS}, {VECTORS} and {RELATIONS}, which belong together",
        code="unfit_folder",
    )
