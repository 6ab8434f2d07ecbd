"""An index with a filter that comes again, and what is to be found among the rows that pass."""

import numpy as np

from storage.filter_parse import parse_filter
from storage.ids import encode_id
from storage.payload_index.fields import FieldIndex
from storage.vector_index import VectorIndex

COUNT, DIMENSION = 1000, 8
VECTORS = np.random.default_rng(3).standard_normal((4 * COUNT, DIMENSION)).astype("<f4")


class Filled:
    """An index whose row n has the number n, in its graph; those below `below` pass its filter."""

    def __init__(self, distance="Cosine", below=60):
        self.below = below
        self.index = VectorIndex(dimension=DIMENSION, distance=distance)
        self.index.payloads.set_fields([FieldIndex("n", "integer")], lambda *_: ())
        self.version = 0
        self.rows = {}
        self.put(range(COUNT))
        self.build()

    def put(self, seqs):
        self.version += 1
        rows, payloads = [], []
        for seq in seqs:
            vector = VECTORS[(seq + 977 * self.version) % len(VECTORS)]
            if self.index.shape.distance == "Cosine":
                vector = (vector / np.linalg.norm(vector)).astype("<f4")
            self.rows[seq] = vector
            rows.append((seq, self.version, encode_id(seq), vector.tobytes()))
            payloads.append(b'{"n":%d}' % seq)
        self.index.defer(0, rows, (), payloads)

    def remove(self, seqs):
        for seq in seqs:
            del self.rows[seq]
        self.index.remove(0, seqs)

    def build(self):
        while self.index.build(COUNT):
            pass
        self.index.payloads.merge()

    @property
    def graph(self):
        return self.index._state.graph

    @property
    def plan(self):
        plan = self.index.payloads.plan(b"where", self.where)
        assert plan is not None
        return plan

    @property
    def where(self):
        return parse_filter({"must": [{"key": "n", "range": {"lt": self.below}}]})

    def ask(self, queries, limit=7, ef=None):
        found = self.index.filtered.many(np.atleast_2d(queries), limit, self.plan, ef=ef)
        return [[hit.seq for hit in hits] for hits in found]

    def nearest(self, queries, limit=7):
        """Return what is to be found, by comparing all."""
        seqs = np.array([seq for seq in self.rows if seq < self.below])
        rows = np.array([self.rows[seq] for seq in seqs.tolist()], dtype=np.float64)
        found = []
        for query in np.atleast_2d(queries).astype(np.float64):
            match self.index.shape.distance:
                case "Cosine" | "Dot":
                    keys = -(rows @ query)
                case "Euclid":
                    keys = np.linalg.norm(rows - query, axis=1)
                case _:
                    keys = np.abs(rows - query).sum(axis=1)
            found.append(seqs[np.argsort(keys)[:limit]].tolist())
        return found

    def check(self, times=4, ef=None):
        """Compare what is found for one query, two and three."""
        for number in range(times):
            queries = VECTORS[number * 3 : number * 3 + 1 + number % 3]
            assert self.ask(queries, ef=ef) == self.nearest(queries)
