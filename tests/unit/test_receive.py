"""The receive filter against a dumb twin: two lists of terms and the rule of figure 2."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.messages import Ack, Append
from cluster.raft.receive import (
    Accept,
    LogMatchingViolated,
    Nack,
    Refuse,
    admit_ack,
    admit_append,
)


@dataclass
class Terms:
    """A log as its terms; index 1 is the root, `base` the last index that is not there."""

    terms: list[int]
    base: int = 1

    @property
    def base_index(self) -> int:
        return self.base

    @property
    def last_index(self) -> int:
        return len(self.terms)

    @property
    def last_term(self) -> int:
        return self.terms[-1]

    def term_at(self, index: int) -> int | None:
        return self.terms[index - 1] if self.base <= index <= len(self.terms) else None

    def as_stock_would(self, message: Append) -> list[int]:
        """Apply what the stock core does with an append: cut after prev, then add."""
        assert self.term_at(message.prev_index) == message.prev_term
        return self.terms[: message.prev_index] + [term for _, _, term in message.entries]


@st.composite
def logs(draw):
    """A leader, a follower that agrees with it up to what is committed, and a message."""
    common = sorted(draw(st.lists(st.integers(1, 4), max_size=8)))
    # a term has one leader, so tails that were written apart have no term in common
    leader = [0, *common, *sorted(draw(st.lists(st.sampled_from([5, 7, 9]), max_size=8)))]
    tail = sorted(draw(st.lists(st.sampled_from([6, 8]), max_size=8)))
    kept = draw(st.integers(0, len(common)))
    follower = [0, *common[:kept], *(tail if kept == len(common) else [])]
    shared = next(
        (k for k, (a, b) in enumerate(zip(leader, follower, strict=False)) if a != b),
        min(len(leader), len(follower)),
    )
    commit = draw(st.integers(1, max(1, min(shared, kept + 1))))
    base = draw(st.integers(1, commit))
    prev = draw(st.integers(1, len(leader)))
    end = draw(st.integers(prev, len(leader)))
    entries = [(b"\x00", index, leader[index - 1]) for index in range(prev + 1, end + 1)]
    message = Append(
        term=10,
        commit_index=draw(st.integers(0, len(leader))),
        prev_index=prev,
        prev_term=leader[prev - 1],
        entries=entries,
        round=1,
    )
    return Terms(leader), Terms(follower, base), commit, message


@given(logs())
def test_an_accepted_append_agrees_and_takes_nothing_good_away(case) -> None:
    """Log matching up to what is acked, no loss of what agreed, commit within what is proved."""
    leader, follower, commit, message = case
    verdict = admit_append(message, follower, commit)
    assert not isinstance(verdict, Refuse)
    if isinstance(verdict, Nack):
        assert verdict.rejected == message.prev_index
        assert commit < verdict.hint <= message.prev_index + 1
        assert follower.term_at(message.prev_index) != message.prev_term
        return
    after = follower.as_stock_would(verdict.message)
    assert after[: verdict.matched] == leader.terms[: verdict.matched]
    agreed = 0
    while (
        agreed < min(len(follower.terms), len(leader.terms))
        and follower.terms[agreed] == leader.terms[agreed]
    ):
        agreed += 1
    assert after[:agreed] == follower.terms[:agreed], "an entry that agrees is never removed"
    assert verdict.message.commit_index <= verdict.matched
    assert verdict.matched >= message.prev_index + len(message.entries) or (
        verdict.matched == follower.base
    )


@given(logs())
def test_a_repetition_changes_nothing(case) -> None:
    """The same message again leaves the log as it is."""
    _, follower, commit, message = case
    verdict = admit_append(message, follower, commit)
    if isinstance(verdict, Accept):
        once = Terms(follower.as_stock_would(verdict.message), follower.base)
        again = admit_append(message, once, commit)
        assert isinstance(again, Accept)
        assert again.matched == verdict.matched
        assert once.as_stock_would(again.message) == once.terms


def test_a_leader_that_contradicts_a_committed_entry_stops_the_replica() -> None:
    """Better one replica less than two histories."""
    follower = Terms([0, 1, 1, 2])
    clash = Append(5, 4, 2, 1, [(b"\x00", 3, 4)], 1)
    with pytest.raises(LogMatchingViolated):
        admit_append(clash, follower, commit_index=3)
    foreign = Append(5, 4, 3, 4, [], 1)
    with pytest.raises(LogMatchingViolated):
        admit_append(foreign, follower, commit_index=3)


@pytest.mark.parametrize(
    "entries",
    [
        [(b"\x00", 4, 1)],
        [(b"\x00", 3, 1), (b"\x00", 3, 1)],
        [(b"\x00", 3, 0)],
        [(b"\x00", 3, 9)],
        [(b"", 3, 1)],
    ],
)
def test_entries_that_do_not_follow_are_refused(entries) -> None:
    """Gaps, repetitions, falling terms, terms beyond the leader's, empty commands."""
    message = Append(5, 0, 2, 1, entries, 1)
    assert isinstance(admit_append(message, Terms([0, 1]), 1), Refuse)


def test_acks_count_in_their_own_term_and_within_the_log() -> None:
    """D12 and D5."""
    assert not admit_ack(Ack(3, 1, matched=5), term=3, last_index=5)
    assert admit_ack(Ack(2, 1, matched=5), term=3, last_index=5)
    assert admit_ack(Ack(3, 1, matched=6), term=3, last_index=5)
