"""Handshake and frames of a peer connection, without IO. Pure.

Both ends share a secret. The dialler sends HELLO (magic, its name, a nonce); the listener
answers with its own nonce and a proof; the dialler proves too. From the secret and both nonces
each direction gets its own key, so a recorded connection cannot be replayed, nor one direction
be fed back as the other. Every frame carries a keyed BLAKE2b MAC over its sequence number and
body, and one over its length alone: a changed length must not be waited for. A wrong MAC, a length
over the limit or a name that is no member ends the connection before a byte of the body is
decoded. There is no code in any of it: bodies are msgpack.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

MAGIC: Final = b"RCLPEER1"
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
MAC_BYTES: Final = 16
LENGTH: Final = struct.Struct("<I")
LENGTH_MAC_BYTES: Final = 8
HEADER: Final = struct.Struct(f"<I{LENGTH_MAC_BYTES}s{MAC_BYTES}s")
NAME_BYTES_MAX: Final = 255


class ForeignPeer(Exception):
    """The other end is not a member of this cluster, or speaks something else."""


def derive(secret: str, purpose: str, *parts: bytes) -> bytes:
    """Return a 32-byte key for one purpose; keyed BLAKE2b over length-prefixed parts."""
    key = hashlib.blake2b(secret.encode(), digest_size=32, person=b"recollect-secret").digest()
    digest = hashlib.blake2b(purpose.encode(), digest_size=32, key=key)
    for part in parts:
        digest.update(struct.pack("<I", len(part)))
        digest.update(part)
    return digest.digest()


def hello(name: str, nonce: bytes) -> bytes:
    """Return the dialler's first message."""
    raw = name.encode()
    assert 0 < len(raw) <= NAME_BYTES_MAX, "a node has a name"
    assert len(nonce) == NONCE_BYTES, "a nonce has its size"
    return MAGIC + bytes((len(raw),)) + raw + nonce


def proof(secret: str, role: str, dialler: str, listener: str, nonces: bytes) -> bytes:
    """Return the proof that `role` knows the secret, bound to both names and nonces."""
    return derive(secret, f"proof-{role}", dialler.encode(), listener.encode(), nonces)


def same(a: bytes, b: bytes) -> bool:
    """Compare proofs in constant time."""
    return hmac.compare_digest(a, b)


@dataclass
class Sealer:
    """Makes frames of one direction."""

    key: bytes
    _sequence: int = 0

    def seal(self, body: bytes) -> list[bytes]:
        """Return the buffers of one frame."""
        self._sequence += 1
        length_mac = mac_of_length(self.key, self._sequence, len(body))
        return [HEADER.pack(len(body), length_mac, mac(self.key, self._sequence, body)), body]


@dataclass
class Opener:
    """Cuts a byte stream into checked bodies."""

    key: bytes
    bytes_max: int
    _sequence: int = 0
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the complete bodies in it.

        Raises:
            ForeignPeer: a frame over the limit, or with a wrong MAC; of a length as soon as it is
                there.
        """
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, length_tag, tag = HEADER.unpack_from(self._buffer, start)
            if length > self.bytes_max:
                raise ForeignPeer(f"a frame of {length} bytes")
            if not same(mac_of_length(self.key, self._sequence + 1, length), length_tag):
                raise ForeignPeer("a frame with a wrong length")
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            body = bytes(memoryview(self._buffer)[start + HEADER.size : end])
            self._sequence += 1
            if not same(mac(self.key, self._sequence, body), tag):
                raise ForeignPeer("a frame with a wrong MAC")
            bodies.append(body)
            start = end
        del self._buffer[:start]
        return bodies


def mac(key: bytes, sequence: int, body: bytes) -> bytes:
    """Return the keyed BLAKE2b MAC of a frame."""
    salt = struct.pack("<QQ", sequence, 0)
    return hashlib.blake2b(body, digest_size=MAC_BYTES, key=key, salt=salt).digest()


def mac_of_length(key: bytes, sequence: int, length: int) -> bytes:
    """Return the keyed BLAKE2b MAC of a frame's length."""
    salt = struct.pack("<QQ", sequence, 1)
    packed = LENGTH.pack(length)
    return hashlib.blake2b(packed, digest_size=LENGTH_MAC_BYTES, key=key, salt=salt).digest()


def pack(kind: int, content: Any) -> bytes:
    """Return a frame's body."""
    body: bytes = msgpack.packb((kind, content), use_bin_type=True)
    return body


def unpack(body: bytes) -> tuple[int, Any]:
    """Read a frame's body back.

    Raises:
        ForeignPeer: bytes that are not (kind, content) in msgpack.
    """
    try:
        kind, content = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ForeignPeer("a frame that is not ours") from error
    if not isinstance(kind, int):
        raise ForeignPeer("a frame without a kind")
    return kind, content
