"""Diversity, recommendation and groups as pure functions, against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.diversity import diverse
from cluster.grouping import Grouping
from cluster.model import Hit
from cluster.recommendation import average, best_scores, score_bound
from cluster.similarity import sigmoid, similarities, similarity_of, unit
from storage.filters import matches, parse_key

DISTANCES = ("Cosine", "Dot", "Euclid", "Manhattan")
SCORE = {
    "Cosine": lambda a, b: float(a @ b),
    "Dot": lambda a, b: float(a @ b),
    "Euclid": lambda a, b: float(np.linalg.norm(a - b)),
    "Manhattan": lambda a, b: float(np.abs(a - b).sum()),
}
seeds = st.integers(0, 2**32 - 1)
distances = st.sampled_from(DISTANCES)


def vectors(seed: int, count: int, distance: Any) -> Any:
    rows = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return unit(rows, distance)


def alike(a: np.ndarray, b: np.ndarray, distance: str) -> float:
    """Return the similarity by its definition."""
    wide = a.astype(np.float64), b.astype(np.float64)
    score = SCORE[distance](*wide)
    return (
        score if distance in {"Cosine", "Dot"} else -score * (score if distance == "Euclid" else 1)
    )


@given(seeds, distances)
def test_similarity_orders_as_the_score_does(seed, distance):
    """More alike is a better score, and a score tells the similarity."""
    rows = vectors(seed, 9, distance)
    found = similarities(rows[1:], rows[0], distance)
    expected = [alike(row, rows[0], distance) for row in rows[1:]]

    assert found == pytest.approx(expected, abs=1e-4)
    assert [
        similarity_of(SCORE[distance](row, rows[0]), distance) for row in rows[1:]
    ] == pytest.approx(expected, abs=1e-4)


@given(seeds, distances, st.integers(0, 12), st.integers(1, 9), st.sampled_from([0, 0.3, 0.5, 1]))
def test_diversity_picks_by_its_formula(seed, distance, count, limit, diversity):
    """Every pick has the greatest gain of those that are left."""
    rows = vectors(seed, count + 1, distance)
    query, rows = rows[0], rows[1:]
    picked = diverse(rows, query, distance, limit=limit, diversity=diversity)

    assert len(set(picked)) == len(picked) == min(limit, count)
    for place, each in enumerate(picked):
        taken = picked[:place]

        def gain(at: int, taken: list[int] = taken) -> float:
            near = max((alike(rows[at], rows[other], distance) for other in taken), default=None)
            relevance = alike(rows[at], query, distance)
            return relevance if near is None else (1 - diversity) * relevance - diversity * near

        best = max(gain(at) for at in range(count) if at not in taken)
        assert gain(each) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("distance", ["Cosine", "Dot", "Euclid", "Manhattan"])
@pytest.mark.parametrize("diversity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("near", "far"), [(1.0, 1e25), (1e25, 1e25), (1e25, 1.0), (3e38, 3e38)])
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_diversity_picks_all_of_what_is_too_far_to_compare(distance, diversity, near, far):
    """A distance that float32 cannot hold is no reason to pick a point twice, or none."""
    rows = np.array([[1.0, 0.5], [-1.0, 0.5], [0.5, 1.0]], np.float32) * np.float32(near)
    query = np.array([0.0, far], np.float32)
    picked = diverse(rows, query, distance, limit=3, diversity=diversity)

    assert sorted(picked) == [0, 1, 2]


def test_diversity_of_equals_is_the_order_of_the_search():
    """Without a difference the first comes first."""
    rows = np.ones((4, 3), np.float32)

    assert diverse(rows, rows[0], "Dot", limit=4, diversity=0.5) == [0, 1, 2, 3]


def test_an_average_moves_away_from_what_is_disliked():
    """It is avg(positive) + avg(positive) - avg(negative)."""
    liked, disliked = np.array([[1, 0], [3, 2]], "f4"), np.array([[0, 4]], "f4")

    assert average(liked, disliked[:0]).tolist() == [2, 1]
    assert average(liked, disliked).tolist() == [4, -2]


@given(seeds, distances, st.integers(1, 3), st.integers(0, 3))
def test_best_scores_follow_the_closest_example(seed, distance, liked, disliked):
    """The closest positive example gives a score above zero, a closer negative one one below."""
    rows = vectors(seed, 8 + liked + disliked, distance)
    positive, negative = rows[:liked], rows[liked : liked + disliked]
    rows = rows[liked + disliked :]
    found = best_scores(rows, positive, negative, distance)
    for row, score in zip(rows, found, strict=True):
        near = max(alike(row, each, distance) for each in positive)
        far = max((alike(row, each, distance) for each in negative), default=-math.inf)
        if abs(near - far) < 1e-4:
            continue
        value = max(far, near)
        expected = 0.5 * (value / (1 + abs(value)) + 1)

        assert score == pytest.approx(expected if near > far else -expected, abs=1e-4)
        assert score <= score_bound([near]) + 1e-4


def test_what_has_every_point_bounds_nothing():
    """When all lists are whole nothing was left out, so nothing can be better."""
    assert score_bound([-math.inf, -math.inf]) == sigmoid(-math.inf) == 0.0
    assert sigmoid(math.inf) == 1.0


values = st.sampled_from([0, 1, 2, "0", "a", True, None, 1.5, 2**63, [0, "a"], ["a", "a"], []])


def expected_groups(hits, limit, size):
    groups: dict[Any, list[Any]] = {}
    for hit in hits:
        value = hit.payload.get("g")
        for each in dict.fromkeys(value if isinstance(value, list) else [value]):
            if type(each) in (int, str) and each != 2**63:
                groups.setdefault((type(each), each), []).append(hit.id)
    return [(value, ids[:size]) for (_, value), ids in groups.items()][:limit]


def not_of(grouping: Grouping, value: Any) -> bool:
    return all(type(each) is not type(value) or each != value for each in grouping.groups)


@given(st.lists(values, max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_groups_are_those_of_all_hits(payloads, limit, size):
    """Taken at once or in parts, hits fall into the groups that all of them make."""
    hits = [Hit(at, 1, 0.0, payload={"g": value}) for at, value in enumerate(payloads)]
    grouping = Grouping(parse_key("g", "group_by"), limit=limit, size=size)
    grouping.take_all(hits[:5])
    grouping.take_all(hits[:10])
    grouping.take_more(hits[10:])
    found = [(value, [hit.id for hit in group]) for value, group in grouping.groups.items()]

    assert found == expected_groups(hits, limit, size)
    assert grouping.is_full == (len(found) == limit and all(len(ids) == size for _, ids in found))
    for hit in hits:
        member = {value for value, group in grouping.groups.items() if hit in group}
        for value in grouping.groups:
            inside = matches(grouping.within(value), hit.id, hit.payload or {})
            assert inside or value not in member
        value = (hit.payload or {})["g"]
        listed = value if isinstance(value, list) else [value]
        other = any(each is not None and not_of(grouping, each) for each in listed)
        assert matches(grouping.outside(), hit.id, hit.payload or {}) == other
