"""The searches of one turn of a worker: those of a kind share a call of the index.

It stands where the node has `cluster.search_turns`, and refuses what the node would leave to its
threads because it is long. A search whose answer shows payloads that were not read lately waits
until the node has sent them: a worker reads no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from cluster.quick_search import Payload, lacking, with_payloads
from cluster.search_calls import GroupKey, Search, SearchCalls, finished
from cluster.search_turns import SHORT_S
from storage.vector_index import IndexHit

UNKNOWN_PART: Final = 0.05
CREDIT_MAX_S: Final = 0.05
"""Searches of unknown kinds have that part of the time, and this much in one go."""


class Elsewhere(RuntimeError):
    """A search is the node's to make."""


class KnownPayloads(Protocol):
    """Payloads that were read lately, as `cluster.quick_search` has them."""

    def known(self, uid: int, hits: Sequence[IndexHit]) -> list[bytes | None]:
        """Return the payload of each hit, if it is known."""
        ...

    def learn(self, uid: int, rows: Sequence[Payload]) -> None:
        """Keep payloads that were read."""
        ...


class Lacking(NamedTuple):
    """A search whose answer waits for payloads: its hits, and the payload of each that is known."""

    search: Search
    hits: Sequence[IndexHit]
    known: list[bytes | None]

    @property
    def points(self) -> list[tuple[bytes, int]]:
        """What is lacking: (id, shard)."""
        return lacking(self.hits, self.known)


class WorkerTurn:
    """See the module."""

    def __init__(
        self, calls: SearchCalls, payloads: KnownPayloads, clock: Callable[[], float]
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self._calls = calls
        self._clock = clock
        self._credit_s, self._counted_s = CREDIT_MAX_S, clock()
        self._payloads = payloads
        self._waiting: dict[GroupKey, list[Search]] = {}

    def begin(self, key: GroupKey, search: Search) -> None:
        """Begin a search of (index, limit, ef); `make` makes it."""
        cost_s = self._calls.cost_s(key)
        is_long = self._is_for_the_node() if cost_s is None else cost_s > SHORT_S
        if search.at_once is None or is_long:
            search.done(Elsewhere("a search that is long, or may be"))
        else:
            self._waiting.setdefault(key, []).append(search)

    def _is_for_the_node(self) -> bool:
        """Return whether a kind that is not known is for the node, which has threads for it.

        A worker finds out about few, since others wait for it meanwhile: kinds that it does not
        know get a part of its time.
        """
        now_s = self._clock()
        earned_s = UNKNOWN_PART * (now_s - self._counted_s)
        self._credit_s, self._counted_s = min(self._credit_s + earned_s, CREDIT_MAX_S), now_s
        return self._credit_s <= 0

    def make(self) -> list[Lacking]:
        """Make the searches that were begun, and answer them; return those that cannot be yet."""
        waiting, self._waiting = self._waiting, {}
        left = []
        for key, group in waiting.items():
            is_known, began_s = self._calls.cost_s(key) is not None, self._clock()
            found = self._calls.hits(key, group)
            if not is_known:
                self._credit_s -= self._clock() - began_s
            for search, hits in zip(group, found, strict=True):
                assert search.at_once is not None, "a search that reads nothing"
                answer = finished(search.at_once, hits)
                if answer is None:
                    known = self._payloads.known(search.collection, hits)
                    left.append(Lacking(search, hits, known))
                else:
                    search.done(answer)
        return left

    def forget(self) -> None:
        """Forget how long searches took."""
        self._calls.forget()
        self._credit_s = CREDIT_MAX_S

    def complete(self, waited: Lacking, rows: Sequence[Payload] | None) -> None:
        """Answer a search with the payloads that came; None: they are too many to come here."""
        if rows is None:
            waited.search.done(Elsewhere("large payloads"))
            return
        self._payloads.learn(waited.search.collection, rows)
        by_id = {each: (version, payload) for each, version, payload in rows}
        waited.search.done(with_payloads(waited.hits, waited.known, by_id))
