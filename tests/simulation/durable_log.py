"""What a machine's write-ahead log would give back after a power cut, kept up by each sync."""

from __future__ import annotations

from cluster.raft import wal_format as form
from cluster.raft.wal_format import Kind
from tests.simulation.faulty_disk import FaultyDisk


class DurableLog:
    """Reads the durable bytes of a disk as they grow; knows nothing of the node's memory."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk = disk
        self.bases: dict[int, int] = {}
        self.entries: dict[int, dict[int, int]] = {}
        """By group: index -> term of what is durable."""
        self._read_to: dict[str, int] = {}
        disk.on_sync = self.take_in

    def holds(self, group: int, index: int, term: int) -> bool:
        """Whether the entry is durable here, or was cut because the state machine has it."""
        if index <= self.bases.get(group, 0):
            return True
        return self.entries.get(group, {}).get(index) == term

    def take_in(self, name: str) -> None:
        """Read the batches of a segment that became durable."""
        image, salt = memoryview(self.disk.files[name].durable), form.salt_of(name)
        offset = self._read_to.get(name, 0)
        while (batch := form.read_batch(image, offset, salt)) is not None:
            for kind, group, body in form.read_records(batch.body):
                self._feed(kind, group, body)
            offset = batch.end
        self._read_to[name] = offset

    def _feed(self, kind: Kind, group: int, body: memoryview) -> None:
        entries = self.entries.setdefault(group, {})
        if kind is Kind.ENTRY:
            index, term = form.TWO.unpack_from(body)
            entries[index] = term
        elif kind is Kind.TRUNCATE:
            (first,) = form.ONE.unpack(body)
            for index in [index for index in entries if index >= first]:
                del entries[index]
        elif kind in {Kind.BASE, Kind.RESET}:
            index, _ = form.TWO.unpack(body)
            if kind is Kind.RESET:
                entries.clear()
            self.bases[group] = index
            for old in [old for old in entries if old <= index]:
                del entries[old]
