"""Huge pages: what is in memory stays what it is, and nothing outside is touched."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from storage import huge_pages
from storage.hnsw import Hnsw
from storage.huge_pages import PAGE_BYTES
from storage.metric import Metric

PAGES = 4


def huge_kib() -> int:
    """Return how much of this process's memory is in huge pages."""
    with Path("/proc/self/smaps_rollup").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has them")
def test_pages_are_gathered_and_keep_their_content():
    """Memory that was touched in small pages is in huge ones afterwards, if the kernel can."""
    with mmap.mmap(-1, PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        words = np.frombuffer(memory, dtype=np.int64)
        content = np.arange(len(words))
        words[:] = content
        memory.madvise(mmap.MADV_HUGEPAGE)
        before = huge_kib()
        gathered = huge_pages.gather(words.ctypes.data, words.nbytes)

        assert np.array_equal(words, content)
        assert not gathered or huge_kib() > before
        del words


def test_memory_without_a_whole_huge_page_is_left():
    """Addresses between two borders hold no huge page, so there is nothing to ask for."""
    assert not huge_pages.gather(PAGE_BYTES + 1, PAGE_BYTES - 1)
    assert not huge_pages.gather(PAGE_BYTES + 1, 2 * PAGE_BYTES - 2)
    assert not huge_pages.gather(0, 0)


def test_a_graph_that_is_gathered_answers_as_before():
    """Rows are found and compared where they were, also when the graph has grown since."""
    metric = Metric("Euclid", 512)
    graph = Hnsw(metric, m=16, ef_construct=100, seed=1)
    rows = np.random.default_rng(3).normal(size=(3000, 512)).astype(np.float32)
    graph.add(rows[:2000], np.arange(2000))
    before = graph.query_many(rows[:20], 10)
    graph.gather()
    after = graph.query_many(rows[:20], 10)
    graph.add(rows[2000:], np.arange(2000, 3000))
    graph.gather()

    assert before is not None
    assert after is not None
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(graph.rows(np.array([5, 2500])), rows[[5, 2500]])
