"""A state machine for simulations: a map of keys, with images of every commit since the last
durable one, because that is what a power cut may leave of a SQLite file."""

from __future__ import annotations

import hashlib
import random

import msgpack

from cluster.raft.messages import Entry


class Register:
    """Applies `key=value` commands; `journal` remembers what it applied at each index."""

    def __init__(self) -> None:
        self.index, self.term = 1, 0
        self.data: dict[str, str] = {}
        self._images: list[bytes] = [self.dump()]

    def position(self) -> tuple[int, int]:
        return self.index, self.term

    def apply(self, entries: list[Entry]) -> None:
        for command, index, term in entries:
            assert index == self.index + 1, f"entry {index} applied after {self.index}"
            assert term >= self.term, "applied terms never fall"
            if command[:1] == b"\x00":
                key, _, value = command[1:].decode().partition("=")
                self.data[key] = value
            self.index, self.term = index, term
        self._images.append(self.dump())

    def digest(self) -> str:
        return hashlib.blake2b(repr(sorted(self.data.items())).encode()).hexdigest()

    def make_durable(self) -> int:
        self._images = self._images[-1:]
        return self.index

    def dump(self) -> bytes:
        packed: bytes = msgpack.packb([self.index, self.term, sorted(self.data.items())])
        return packed

    def load(self, image: bytes) -> None:
        """Install a snapshot; durable when this returns, as the real install is."""
        self.index, self.term, items = msgpack.unpackb(image)
        self.data = dict(items)
        self._images = [image]

    def lose_power(self, rng: random.Random) -> None:
        """Fall back to any commit since the last durable one."""
        self.load(rng.choice(self._images))
