"""A worker's copy of the node's indexes: keeps up with what is written, tells what it learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from cluster.indexing import Changed
from cluster.workers.change_ring import ChangeRing
from storage.vector_index import VectorIndex

SAMPLE_BYTES_MAX: Final = 64 * 1024
"""Of queries in one report: 41 of 384 dimensions, 3 of 4,096. What is more is not missed."""
TEXT_BYTES_MAX: Final = 16 * 1024
_ENTRY_BYTES: Final = 32

_decoder: Final = msgspec.msgpack.Decoder(Changed)


class CopiedIndexes:
    """See the module. `show` is told up to which log index of a shard the copy may reflect."""

    def __init__(
        self,
        indexes: Mapping[int, VectorIndex],
        ring: ChangeRing,
        number: int,
        show: Callable[[int, int], None],
    ) -> None:
        self._indexes = indexes
        self._ring = ring
        self._number = number
        self.show = show

    def catch_up(self) -> None:
        """Take in what was written since the last call: searches are to be no longer for it."""
        changes = set()
        for record in self._ring.read(self._number):
            changed = _decoder.decode(record)
            index = self._indexes.get(changed.uid)
            if index is not None:  # else the whole copy is of no use any more
                index.defer(changed.shard, changed.rows, changed.gone, changed.payloads)
                self.show(changed.shard, changed.shown)
                changes.add(changed.uid)
        for uid in sorted(changes):
            self._indexes[uid].settle()

    def settle(self) -> None:
        """Take in what the node had not taken in when it was forked."""
        for index in self._indexes.values():
            index.settle()

    def notes(self) -> dict[str, Any]:
        """Return what a report says of the searches since the last one."""
        samples, to_gather, to_make = [], [], []
        searched = [uid for uid, index in self._indexes.items() if index.flood.take_searched()]
        for uid, index in self._indexes.items():
            queries = index.tuning.take_samples()
            samples += [(uid, query.astype("<f4").tobytes()) for query in queries]
            to_gather += [(uid, text) for text in _texts_to_gather(index)]
            due = index.filtered.own.take_due()
            text = None if due is None else index.payloads.text_of(due)
            if text is not None:
                to_make.append((uid, text))
        return {
            "samples": _within(samples, SAMPLE_BYTES_MAX),
            "to_gather": _within(to_gather, TEXT_BYTES_MAX),
            "to_make": _within(to_make, TEXT_BYTES_MAX),
            "searched": searched,
        }


def _within(entries: list[tuple[int, bytes]], bytes_max: int) -> list[tuple[int, bytes]]:
    """Return the first entries that fit; one that is too large by itself is left out."""
    kept, total = [], 0
    for entry in entries:
        size = len(entry[1]) + _ENTRY_BYTES
        if total + size <= bytes_max:
            total += size
            kept.append(entry)
    return kept


def _texts_to_gather(index: VectorIndex) -> list[bytes]:
    texts = (index.payloads.text_of(rows) for rows in index.filtered.take_to_gather())
    return [text for text in texts if text is not None]
