"""Random payloads and filters that meet each other: few names, few values, many types."""

import uuid

from hypothesis import strategies as st

NAMES = ["a", "b", "with.dot", "two words", "back\\slash", "tab\t", "é", "", "$"]
TEXTS = ["", "x", "xy", 'say "x"', "back\\slash", "ü\n", "null", "1", "[1]", '{"a":1}', "true"]
INTEGERS = [0, 1, -1, 2, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, -1.5, 0.1, 2.5e-7, 1e300, 0.707056753354459, 1.8849795457381365e-295]
TIMES = [
    "2024-02-29",
    "2024-02-29 12:30",
    "2024-02-29t12:30:15z",
    "2024-02-29T12:30:15.1235Z",
    "2024-02-29T14:30:15.9999999999+0200",
    "1969-12-31T23:59:60-23:59",
    "0001-01-01T00:00:00+10:00",
    "9999-12-31T23:59:59.999999Z",
]
NO_TIMES = [
    "2024-02-30",
    "2024-00-01",
    "0000-01-01",
    "2024-02-29T24:00:00Z",
    "2024-02-29T12:60",
    "2024-02-29T12:30:61Z",
    "2024-02-29T12:30Z",
    "2024-02-29T12:30:15.Z",
    "2024-02-29T12:30:15.1x",
    "2024-02-29T12:30:15+24:00",
    "2024-02-29T12:30:15+02",
    "2024-02-29T12:30:15ZZ",
    "2024-02-29T12:30:15 Z",
    "2024-02-29T12:30:15Z\n",
    "2024-2-29",
    "12:30",
    "now",
]

scalars = st.sampled_from([None, True, False, *INTEGERS, 2**63, 2**64 - 1, *FLOATS, *TEXTS, *TIMES])
values = st.recursive(
    scalars | st.sampled_from(NO_TIMES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)
payloads = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
ids = st.integers(0, 3) | st.sampled_from([str(uuid.UUID(int=n)) for n in range(3)])
limits = st.sampled_from(["gt", "gte", "lt", "lte"])


def quoted(steps):
    """Write a key, with each name in quotes."""
    places = {None: "[]", 0: "[0]", 1: "[1]"}
    return "".join(places.get(each, f'."{each}"') for each in steps)[1:]


keys = st.builds(
    lambda name, rest: quoted([name, *rest]),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from([*NAMES, None, None, None, 0, 1]), max_size=3),
)
wanted = st.lists(st.sampled_from(TEXTS), max_size=3) | st.lists(
    st.sampled_from(INTEGERS), max_size=3
)
tests = st.one_of(
    st.fixed_dictionaries({"value": st.sampled_from([True, False, *INTEGERS, *TEXTS])}),
    st.fixed_dictionaries({"any": wanted}),
    st.fixed_dictionaries({"except": wanted}),
    st.fixed_dictionaries({"text": st.sampled_from(TEXTS)}),
    st.fixed_dictionaries({"text_any": st.sampled_from(["", "x", "zz 1", "ü [1]"])}),
).map(lambda match: {"match": match})
ranges = st.one_of(
    st.dictionaries(limits, st.sampled_from([*INTEGERS, *FLOATS, 2**64 - 1]), max_size=2),
    st.dictionaries(limits, st.sampled_from(TIMES), min_size=1, max_size=2),
).map(lambda limit: {"range": limit})
counts = st.dictionaries(limits, st.integers(0, 3), max_size=2).map(
    lambda limit: {"values_count": limit}
)
flags = st.sampled_from(
    [{name: flag} for name in ("is_empty", "is_null") for flag in (True, False)]
)
leaves = st.one_of(
    st.builds(lambda key, test: {"key": key, **test}, keys, tests | ranges | counts | flags),
    st.builds(
        lambda name, key: {name: {"key": key}}, st.sampled_from(["is_empty", "is_null"]), keys
    ),
    st.lists(ids, max_size=3).map(lambda listed: {"has_id": listed}),
)


@st.composite
def filters(draw, depth=2):
    """Draw a filter as JSON; a clause is a list or one condition."""

    def condition():
        inner = depth and draw(st.integers(0, 3)) == 0
        return (draw(filters(depth - 1)) or {"must": []}) if inner else draw(leaves)

    raw = {}
    for name in draw(st.sets(st.sampled_from(["must", "should", "must_not", "min_should"]))):
        conditions = [condition() for _ in range(draw(st.integers(0, 3)))]
        clause = conditions[0] if len(conditions) == 1 and draw(st.booleans()) else conditions
        count = draw(st.integers(0, 3))
        few = {"conditions": clause, "min_count": count}
        raw[name] = few if name == "min_should" else clause
    return raw
