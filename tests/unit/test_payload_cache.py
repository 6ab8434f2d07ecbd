"""Payloads that were read lately: bounded, and never another version's."""

from cluster.payload_cache import ENTRY_BYTES, PayloadCache, PayloadKey


def key(number, version=1):
    return PayloadKey(7, bytes([number]), version)


def test_a_payload_is_known_by_its_version():
    """Another version, id or collection is another payload."""
    cache = PayloadCache()
    cache.put(key(1), b"{}")

    assert cache.get(key(1)) == b"{}"
    assert cache.get(key(1, version=2)) is None
    assert cache.get(key(2)) is None
    assert cache.get(key(1)._replace(collection=8)) is None


def test_what_is_asked_for_stays_and_the_rest_goes():
    """The cache keeps within its bytes what was used last."""
    size = ENTRY_BYTES + 100
    cache = PayloadCache(20 * size)
    cache.put(key(0), bytes(100))
    for number in range(1, 100):
        cache.put(key(number), bytes(100))
        assert cache.get(key(0)) is not None
        assert cache.get(key(number)) is not None
    kept = [number for number in range(100) if cache.get(key(number)) is not None]

    assert 0 in kept
    assert 99 in kept
    assert len(kept) <= 20
