"""Merging answers, against sorting everything."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.merge import best_of, more_is_better, passes
from storage.ids import encode_id


class Found(NamedTuple):
    id: bytes
    version: int
    score: float


hits = st.builds(
    Found,
    id=st.integers(0, 12).map(encode_id),
    version=st.integers(1, 4),
    score=st.integers(-3, 3).map(float),
)
# One version of a point has one vector, hence one score.
points = st.dictionaries(
    st.tuples(st.integers(0, 12).map(encode_id), st.integers(1, 4)), st.floats(-10, 10)
)


@st.composite
def clusters(draw):
    """Answers of nodes that hold versions of the same points, each best first."""
    scores = draw(points)
    stored = [Found(point, version, score) for (point, version), score in scores.items()]
    descending = draw(st.booleans())
    answers = draw(st.lists(st.lists(st.sampled_from(stored)) if stored else st.just([])))
    order = sorted if not descending else lambda found, key: sorted(found, key=key, reverse=True)
    return [order(answer, key=lambda hit: hit.score) for answer in answers], descending


@given(clusters(), st.integers(0, 15))
def test_merge_is_sorting_the_newest(cluster, limit):
    """The best k are those of a sorted list of each id's newest version."""
    answers, descending = cluster
    everything = [hit for answer in answers for hit in answer]
    newest = {hit.id: hit for hit in sorted(everything, key=lambda hit: hit.version)}
    by_id = sorted(newest.values(), key=lambda hit: hit.id)
    expected = sorted(by_id, key=lambda hit: -hit.score if descending else hit.score)

    assert best_of(answers, limit, descending=descending) == expected[:limit]


@given(clusters(), st.randoms())
def test_order_of_answers_is_irrelevant(cluster, random):
    """Which node answered first does not show."""
    answers, descending = cluster
    shuffled = list(answers)
    random.shuffle(shuffled)

    assert best_of(shuffled, 5, descending=descending) == best_of(answers, 5, descending=descending)


@given(st.lists(hits, unique_by=lambda hit: hit.id), st.integers(1, 5), st.integers(1, 8))
def test_best_of_parts_is_best_of_all(found, parts, limit):
    """Nodes need not send more than k: the best k of disjoint parts are the best k of all."""
    split = [found[part::parts] for part in range(parts)]
    tops = [best_of([part], limit, descending=True) for part in split]

    assert best_of(tops, limit, descending=True) == best_of([found], limit, descending=True)


def test_an_old_version_never_wins():
    """A vector that no longer exists is no result, however well it fits."""
    old, new = Found(encode_id(1), 5, 0.9), Found(encode_id(1), 6, 0.1)

    assert best_of([[old], [new]], 1, descending=True) == [new]


@pytest.mark.parametrize(
    ("distance", "score", "kept"),
    [
        ("Cosine", 0.6, True),
        ("Cosine", 0.4, False),
        ("Dot", 0.5, True),
        ("Euclid", 0.6, False),
        ("Manhattan", 0.4, True),
    ],
)
def test_threshold_follows_the_metric(distance, score, kept):
    """A threshold is a lower bound of similarities and an upper bound of distances."""
    assert passes(score, 0.5, descending=more_is_better(distance)) is kept


def test_no_threshold_lets_everything_pass():
    """Without a threshold even the worst is a result."""
    assert passes(float("-inf"), None, descending=True)
