"""Answers from one state of a graph: how much of it they take, and how much they give."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest

from cluster.api.body_decoder import LARGE_BODY_BYTES
from cluster.api.embedding import CHECKED_HERE, embed_texts
from cluster.api.graph_merging import merged_answers, read_answer
from cluster.graph_answers import FOUND_MAX, NEIGHBOURS_MAX, answer_question
from cluster.graph_circumstances import Circumstances
from cluster.graph_cypher import parsed
from cluster.graph_memory import GraphInMemory
from cluster.graph_questions import Export, ExportFormat, GraphRead, KHop, Question, Recall
from graph.export import GRAPHML_ELEMENTS_MAX
from graph.state import GraphState
from tests.small_graphs import a_graph, a_node, an_edge

EXPANSIONS = 10_000_000


class Index:
    """An index of so many elements, the nearest first; scores fall from 1 by 0.0001."""

    def __init__(self, size: int, prefix: str = "gone") -> None:
        self.size, self.prefix = size, prefix
        self.asked: list[int] = []

    def nearest(self, kind: str, vector: bytes, k: int) -> list[tuple[str, float]]:
        self.asked.append(k)
        return [(f"{self.prefix}{at}", 1 - at / 10_000) for at in range(min(k, self.size))]


def answered(
    state: GraphState,
    question: Question,
    index: Index | None = None,
    *,
    expansions_max: int = EXPANSIONS,
    bytes_max: int = 1 << 24,
) -> tuple[Any, int]:
    """Return an answer, and how much work it was."""
    around = Circumstances(
        clock=lambda: 0.0,
        deadline_s=1.0,
        pause=lambda: None,
        wall_ms=0,
        identifier=lambda: "new",
        vectors=lambda kind, ids: {},
        nearest=(index or Index(0)).nearest,
        changes_bytes_max=1 << 20,
        answer_bytes_max=bytes_max,
    )
    graph = GraphInMemory(state, lambda: None)
    budget = around.budget(expansions_max)
    read = GraphRead(1, (), question, 1000, expansions_max)
    answer = answer_question(graph, read, around, budget)
    return orjson.loads(answer.result), budget.spent


def recall(**choices: Any) -> Recall:
    usual: dict[str, Any] = {
        "vector": b"",
        "kinds": ("nodes",),
        "k": 10,
        "hops_max": 0,
        "direction": "both",
        "chains_max": 5,
        "limit": 10,
        "confidence_min": 0.5,
        "descending": True,
    }
    return Recall(**{**usual, **choices})


def test_an_index_of_the_past_is_not_read_whole() -> None:
    """When hardly anything that it gives counts, the search ends in time and says so."""
    index = Index(1_000_000)
    found, spent = answered(a_graph([], [a_node("a")]), recall(), index)

    assert (found["results"], found["truncated"]) == ([], True)
    assert max(index.asked) == FOUND_MAX
    assert spent == sum(index.asked)


def test_a_small_budget_ends_the_search_in_an_index() -> None:
    """Elements of an index are work like any other."""
    index = Index(1_000_000)
    found, _ = answered(a_graph([], [a_node("a")]), recall(), index, expansions_max=100)

    assert found["truncated"] is True
    assert index.asked == [10, 40]


@pytest.mark.parametrize(("descending", "least"), [(True, 0.9999), (False, 0.5)])
def test_what_is_too_far_ends_the_search(descending: bool, least: float) -> None:
    """Behind an element that is not near enough there is none that is."""
    index = Index(1_000_000, "n")
    state = a_graph([], [a_node(f"n{at}") for at in range(3)])
    found, _ = answered(state, recall(score_min=least, descending=descending), index)

    assert [each["node"]["id"] for each in found["results"]] == (["n0", "n1"] if descending else [])
    assert (index.asked, found["truncated"]) == ([10], False)


def test_an_index_that_has_no_more_was_asked_for_all() -> None:
    """Then nothing was left out."""
    found, _ = answered(a_graph([], [a_node("n7")]), recall(), Index(30, "n"))

    assert [each["node"]["id"] for each in found["results"]] == ["n7"]
    assert found["truncated"] is False


def test_neighbours_have_a_largest_number() -> None:
    """What is over it is left out, and told; each start has its place in the answer."""
    leaves = [f"n{at}" for at in range(1_000)]
    state = a_graph([an_edge(f"e{leaf}", ("hub", leaf)) for leaf in leaves])
    found, _ = answered(state, KHop(ids=leaves[:300], hops=2, direction="both"))
    sizes = [len(each) for each in found["neighbours"]]

    assert sum(sizes) == NEIGHBOURS_MAX
    assert sizes == [1_000] * 250 + [0] * 50
    assert found["truncated"] is True


def exported(state: GraphState, kind: ExportFormat, **choices: Any) -> Any:
    question = Export(format=kind, ids=[], hops=1, direction="out", nodes_max=1_000_000)
    return answered(state, question, **choices)[0]


def test_graphml_has_a_largest_number_of_elements() -> None:
    """Writing it cannot be stopped half-way; what does not fit is left out, and told."""
    names = [f"n{at:05}" for at in range(GRAPHML_ELEMENTS_MAX)]
    few, many = names[: GRAPHML_ELEMENTS_MAX // 2], names
    chain = a_graph([an_edge(pair[0], pair) for pair in pairwise(many)])
    short = a_graph([an_edge(pair[0], pair) for pair in pairwise(few)])

    cut, whole = exported(chain, "graphml"), exported(short, "graphml")
    assert (cut["truncated"], whole["truncated"]) == (True, False)
    assert 0.9 < cut["content"].count("<node ") / GRAPHML_ELEMENTS_MAX <= 1
    assert whole["content"].count("<node ") == GRAPHML_ELEMENTS_MAX - 1


@pytest.mark.parametrize("kind", ["json", "graphml", "svg"])
def test_an_export_fits_into_an_answer(kind: ExportFormat) -> None:
    """Its first nodes do, when not all of it does."""
    nodes = [a_node(f"n{at:03}", text="x" * 100) for at in range(200)]
    state = a_graph([an_edge("e", ("n000", "n001"))], nodes)
    found = exported(state, kind, bytes_max=20_000)

    assert found["truncated"] is True
    assert 4_000 < len(orjson.dumps(found)) <= 20_000


def test_only_short_queries_are_kept_in_memory() -> None:
    """A tree takes much more than its text, so the longest are read anew each time."""
    for size, kept in ((10, True), (400, True), (1_500, False)):
        text = f"RETURN {' + '.join('1' * size)}"

        assert (parsed(text) is parsed(text)) is kept


class Space:
    """Vectors of two numbers, which knows on which threads it was asked."""

    name, distance, embedding_space = "space", "Dot", "words"

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    @property
    def dimension(self) -> int:
        self.threads.add(threading.current_thread())
        return 2


class Embedder:
    """Knows only one vector."""

    space, dimension = "words", 2

    def embed(self, texts: list[str]) -> Any:
        return np.ones((len(texts), 2), np.float32)


class Asked:
    """A request, as far as embedding regards it."""

    class api:  # noqa: N801 - it stands for an attribute
        embedder = Embedder()

        class config:  # noqa: N801 - it stands for an attribute
            payload_bytes_max = 100


async def test_many_embedded_texts_are_checked_on_a_thread() -> None:
    """The event loop has better things to do."""
    call: Any = Asked()
    for count, here in ((CHECKED_HERE, True), (CHECKED_HERE + 1, False)):
        space: Any = Space()
        vectors = await embed_texts(call, ["a"] * count, space, ["text"] * count)

        assert len(vectors) == count
        assert (threading.current_thread() in space.threads) is here


async def test_large_answers_are_merged_on_a_thread() -> None:
    """And small ones at once."""
    threads: list[bool] = []

    def merge(found: Any) -> dict[str, Any]:
        threads.append(threading.current_thread() is threading.main_thread())
        return {"all": found}

    large = orjson.dumps("x" * LARGE_BODY_BYTES)
    small = await merged_answers([b"1", b"2"], merge)
    both = await merged_answers([b"1", large], merge)

    assert (orjson.loads(small), orjson.loads(both)) == (
        {"all": [1, 2]},
        {"all": [1, "x" * LARGE_BODY_BYTES]},
    )
    assert threads == [True, False]
    assert await read_answer(large) == "x" * LARGE_BODY_BYTES
