"""The parts of the demo that need no cluster: its texts, its arithmetic, its patience."""

import sys
import threading

import numpy as np
import pytest

from cluster.client import Client
from cluster.demo_check import busiest_leader, differing_shards, lost
from cluster.demo_corpus import (
    TEXT_LENGTH_MAX,
    Docstring,
    docstrings,
    opening,
    source_files,
    standard_library,
)
from cluster.demo_failover import FIRST_ID, SteadyWriter, longest_pause_s
from cluster.demo_load import BATCH_POINTS, POINTS_PATH, patiently, store_all
from cluster.demo_restore import (
    Contents,
    compared,
    count_memories,
    make_checkpoint,
    shard_hashes,
)
from cluster.demo_search import QUESTIONS, ask
from cluster.errors import CommandFailed
from tests.helpers import eventually
from tests.stand_in_node import stand_in_node

SOURCE = '''
"""What the module is for."""
class A:
    """One two three."""
    def method(self):
        """Of a class it is."""
        def inner():
            """Nobody sees this one."""
    class B:
        """One two three."""
def function():
    """Stands by itself here."""
async def other(): """Too short"""
'''


@pytest.fixture
def node():
    with stand_in_node() as server:
        yield server


def texts_of(root):
    return [text for found in docstrings(root, source_files(root)) for text in found]


class TestTexts:
    def test_kinds_and_names(self, tmp_path):
        """Each documented thing has its kind and its dotted name; a repeated text is left out."""
        (tmp_path / "pack").mkdir()
        (tmp_path / "pack" / "__init__.py").write_text(SOURCE)
        found = texts_of(tmp_path)

        assert [(text.kind, text.title) for text in found] == [
            ("module", "pack"),
            ("class", "pack.A"),
            ("method", "pack.A.method"),
            ("function", "pack.function"),
        ]

    def test_tests_and_broken_files_are_skipped(self, tmp_path):
        """Neither a test folder nor a file that does not parse gives texts."""
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "test_x.py").write_text(SOURCE)
        (tmp_path / "broken.py").write_text("def (")
        (tmp_path / "binary.py").write_bytes(b"\x00\xff")

        assert texts_of(tmp_path) == []

    def test_text_that_cannot_be_stored_is_skipped(self, tmp_path):
        """A text with NUL or a lone surrogate is none."""
        (tmp_path / "odd.py").write_text('"""nul \\0 in the text"""\n')
        (tmp_path / "odder.py").write_text('"""surrogate \\ud800 in it"""\n')

        assert texts_of(tmp_path) == []

    def test_opening_keeps_whole_paragraphs(self):
        """Paragraphs are kept while they fit; a first one that does not is cut at a word."""
        short, long = "one", "word " * 300

        assert opening(f"{short}\n\n{short}") == f"{short}\n\n{short}"
        assert opening(f"{short}\n\n{long}") == short
        assert opening(long).endswith("word")
        assert len(opening(long)) <= TEXT_LENGTH_MAX

    def test_standard_library_is_large_enough(self):
        """This machine has texts enough, unimported, and each question's filter names some."""
        texts = texts_of(standard_library())

        assert len(texts) >= 5000
        assert len({text.text for text in texts}) == len(texts)
        assert not {"this", "antigravity", "turtle", "idlelib"} & set(sys.modules)
        have = {
            "kind": {text.kind for text in texts},
            "package": {text.module.partition(".")[0] for text in texts},
        }

        assert len(QUESTIONS) == 5
        assert all(question.value in have[question.key] for question in QUESTIONS)


class TestLoad:
    TEXTS = tuple(Docstring("m", f"f{n}", "function", f"text {n}") for n in range(450))
    VECTORS = tuple(np.ones((450, 2), dtype=np.float32))

    def load(self, node):
        moved: list[int] = []
        found = store_all(lambda _n: Client(node.url), self.TEXTS, self.VECTORS, moved.append)
        return found, moved

    def test_every_text_is_acknowledged_once(self, node):
        """All texts are sent, in batches, and remembered with what was stored."""
        node.answer("PUT", f"{POINTS_PATH}?wait=true", (200, {}))
        found, moved = self.load(node)
        batches = [body["points"] for body in node.bodies(f"{POINTS_PATH}?wait=true")]

        assert sorted(found.acknowledged) == list(range(1, 451))
        assert sum(moved) == 450
        assert sorted(len(batch) for batch in batches) == [50, BATCH_POINTS, BATCH_POINTS]
        assert found.acknowledged[1]["name"] == "m.f0"
        assert found.writes_per_s > 0

    def test_retryable_refusal_is_retried(self, node):
        """A refusal that may pass is not the end."""
        refusal = {"code": "not_leader", "retryable": True}
        node.answer("PUT", f"{POINTS_PATH}?wait=true", (503, refusal), (200, {}))
        found, _ = self.load(node)

        assert len(found.acknowledged) == 450
        assert len(node.asked) == 4

    def test_final_refusal_ends_it(self, node):
        """A refusal that cannot pass is told at once."""
        refusal = {"code": "bad_request", "sentence": "no"}
        node.answer("PUT", f"{POINTS_PATH}?wait=true", (400, refusal))
        with pytest.raises(CommandFailed, match="no"):
            self.load(node)

    def test_patience_ends(self):
        """What never passes is given up."""

        def refuse():
            raise CommandFailed("later", retryable=True)

        with pytest.raises(CommandFailed, match="later"):
            patiently(refuse, give_up_s=0)


class TestFailover:
    def test_writer_counts_acknowledged_writes_only(self, node):
        """A refused write is sent again under its id, and counted once when acknowledged."""
        path = f"{POINTS_PATH}?wait=true"
        refusal = {"code": "not_leader", "retryable": True}
        node.answer("PUT", path, (503, refusal), (503, refusal), (200, {}))
        writer = SteadyWriter(0, [Client(node.url), Client(node.url)], [[1.0]])
        writer.start()
        eventually(lambda: writer.acks_since(0) >= 2)
        writer.stop()
        ids = [body["points"][0]["id"] for body in node.bodies(path)]

        assert ids[:4] == [FIRST_ID, FIRST_ID, FIRST_ID, FIRST_ID + 1]
        assert sorted(writer.acknowledged) == sorted(set(ids))
        assert len(writer.ack_times_s) == len(writer.acknowledged)

    def test_writer_tells_why_it_gave_up(self, node):
        """A refusal that cannot pass ends the writer, and `stop` tells it."""
        node.answer("PUT", f"{POINTS_PATH}?wait=true", (400, {"code": "bad_request"}))
        writer = SteadyWriter(0, [Client(node.url)], [[1.0]])
        writer.start()
        eventually(lambda: len(node.asked))
        with pytest.raises(CommandFailed):
            writer.stop()

        assert writer.acknowledged == {}
        assert not any(thread.name.startswith("steady") for thread in threading.enumerate())

    def test_longest_pause(self):
        """Only pauses that end after the failure count."""
        times = [0.0, 5.0, 5.1, 6.4, 6.5]

        assert longest_pause_s(times, since_s=5.2) == pytest.approx(1.3)
        assert longest_pause_s(times, since_s=6.45) == pytest.approx(0.1)
        with pytest.raises(ValueError, match="both sides"):
            longest_pause_s(times, since_s=7.0)


class TestCheck:
    def test_busiest_leader(self):
        """The node with most leaders is killed; among equals the first by name."""
        nodes = [{"name": n, "leads": leads} for n, leads in (("b", 4), ("a", 4), ("c", 3))]

        assert busiest_leader({"nodes": nodes}) == "a"

    def test_differing_shards(self):
        """A shard counts as equal only when all its replicas are known and equal."""
        one, two = {"applied_index": 5, "state_hash": "x"}, {"applied_index": 5, "state_hash": "y"}
        late = {"applied_index": 4, "state_hash": "w"}
        silent = {"applied_index": None, "state_hash": None}
        replicas = [[one, one], [one, two], [one, late], [one, silent]]
        shards = [{"shard": n, "replicas": found} for n, found in enumerate(replicas)]

        assert differing_shards({"shards": shards}) == [1, 2, 3]

    def test_lost(self, node):
        """A missing id, and one with other content, are lost; an extra one is nothing."""
        rows = [
            {"id": 1, "payload": {"a": 1}},
            {"id": 2, "payload": {"a": "other"}},
            {"id": 9, "payload": {}},
        ]
        node.answer("POST", POINTS_PATH, (200, rows))
        with Client(node.url) as client:
            found = lost(client, {1: {"a": 1}, 2: {"a": 2}, 3: {"a": 3}})

        assert found == [2, 3]

    def test_ask(self, node):
        """A hit is shown by score, name and the first line of its text."""
        hit = {"score": 0.5, "payload": {"name": "m.f", "task": "first\nsecond"}}
        node.answer("POST", f"{POINTS_PATH}/query", (200, {"points": [hit]}))
        with Client(node.url) as client:
            (found,) = ask(client, [1.0], QUESTIONS[0].filter)

        assert (found.score, found.name, found.line) == (0.5, "m.f", "first")
        assert node.bodies(f"{POINTS_PATH}/query")[0]["filter"] == QUESTIONS[0].filter


class TestRestore:
    BEFORE = Contents(("a" * 32, "b" * 32), 5, (["x"], ["y"]))

    def test_equal_clusters(self):
        """Two clusters with the same hashes, counts and answers differ in nothing."""
        found = compared(self.BEFORE, self.BEFORE)

        assert [each.what for each in found] == [
            "state hash of shard 0",
            "state hash of shard 1",
            "memories",
            "answers to searches",
        ]
        assert all(each.equal for each in found)

    def test_every_difference_is_seen(self):
        """One other hash, one memory less and one other answer are three differences."""
        after = Contents(("a" * 32, "b" * 31 + "c"), 4, (["x"], ["z"]))
        found = compared(self.BEFORE, after)

        assert [each.equal for each in found] == [True, False, False, False]
        assert found[3].after == "1 the same"

    def test_unknown_hashes_are_not_equal(self):
        """Replicas that differ, or do not answer, prove nothing."""
        replicas = [
            [{"state_hash": "x"}, {"state_hash": "y"}],
            [{"state_hash": "x"}, {"state_hash": None}],
            [{"state_hash": "x"}, {"state_hash": "x"}],
        ]
        hashes = shard_hashes({"shards": [{"replicas": each} for each in replicas]})
        unknown = Contents(hashes, 0, ())

        assert hashes == ["", "", "x"]
        assert [each.equal for each in compared(unknown, unknown)][:3] == [False, False, True]

    def test_checkpoint_is_whole_when_it_is_listed(self, node):
        """A checkpoint that takes longer than its request is waited for."""
        newest = {"id": 7, "rows_written": 9}
        listed = [{"checkpoints": found} for found in ([], [], [newest])]
        node.answer("GET", "/cluster/checkpoints", *((200, each) for each in listed))
        node.answer("POST", "/cluster/checkpoint", (200, {"state": "running"}))
        with Client(node.url) as client:
            made = make_checkpoint(client, lambda done, what: eventually(done, what=what))

        assert (made.number, made.rows) == (7, 9)

    def test_memories_are_counted_exactly(self, node):
        """The count is not an estimate."""
        node.answer("POST", f"{POINTS_PATH}/count", (200, {"count": 4}))
        with Client(node.url) as client:
            assert count_memories(client) == 4
        assert node.bodies(f"{POINTS_PATH}/count") == [{"exact": True}]
