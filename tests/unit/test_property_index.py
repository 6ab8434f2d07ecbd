"""Indexes on properties against looking at every node."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from graph.model import GraphDelta
from graph.property_index import PropertyIndexes
from tests.unit.cypher_graph import graph, node

VALUES = st.sampled_from([None, True, False, 0, 1, 1.5, 2, "", "a", "b", [1], {"k": 1}])
Writes = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["L", "M"]), VALUES), min_size=1, max_size=4
)


def put(state, writes):
    nodes = [node(str(n), label, p=value) for n, label, value in writes]
    last = {each.id: each for each in nodes}
    return state.apply(GraphDelta(state.version + 1, list(last.values())))


def holds(value, question):
    def like(bound):
        kinds = [
            bool if isinstance(x, bool) else str if isinstance(x, str) else float
            for x in (value, bound)
        ]
        return kinds[0] == kinds[1]

    if value is None or isinstance(value, list | dict):
        return value is not None and value == question.get("equal")
    if "equal" in question:
        return like(question["equal"]) and value == question["equal"]
    low, high = question.get("low"), question.get("high")
    return (low is None or (like(low) and low <= value)) and (
        high is None or (like(high) and value <= high)
    )


def truth(state, question):
    return {
        each.slot
        for each in state.nodes()
        if "L" in each.labels and holds(each.properties.get("p"), question)
    }


QUESTIONS = (
    {"equal": 1},
    {"equal": True},
    {"equal": "a"},
    {"equal": [1]},
    {"low": 1},
    {"high": "a"},
    {"low": 0, "high": 1.5},
    {"low": False, "high": True},
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(Writes, st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_candidates_are_never_too_few(batches):
    """Whatever was written since the base was built, all nodes that match are candidates."""
    state = graph()
    indexes = PropertyIndexes(["L.p", "M.p"], state)
    for writes, told, asked in batches:
        old, state = state, put(state, writes)
        indexes.changed(state.touched, state)
        if told:
            indexes.candidates("L", "p", old, equal=1)
        for question in QUESTIONS if asked else ():
            found = indexes.candidates("L", "p", state, **question)
            assert found is None or truth(state, question) <= {*found}
            before = indexes.candidates("L", "p", old, **question)
            assert before is None or truth(old, question) <= {*before}


def test_hits_are_few():
    """A base that knows the state answers with what matches and nothing else."""
    state = graph(*(node(str(n), "L", p=n) for n in range(1000)))
    indexes = PropertyIndexes(["L.p"], state)

    assert indexes.candidates("L", "p", state, equal=7) == [state.slot_of("7")]
    assert indexes.candidates("L", "p", state, low=3, high=5.5) == [3, 4, 5]
    assert indexes.candidates("L", "p", state, low=3, high="x") == []
    assert indexes.candidates("L", "q", state, equal=7) is None
    assert ("L", "p") in indexes
    assert ("L", "q") not in indexes


def test_changes_are_candidates():
    """Nodes that changed since the base are candidates for everything."""
    state = graph(node("a", "L", p=1), node("b", "L", p=2))
    indexes = PropertyIndexes(["L.p"], state)
    assert indexes.candidates("L", "p", state, equal=2) == [1]

    newer = put(state, [(5, "L", 2)])
    indexes.changed(newer.touched, newer)

    assert indexes.candidates("L", "p", newer, equal=2) == [1, 2]
    assert indexes.candidates("L", "p", state, equal=2) == [1]


def test_an_old_state_is_scanned():
    """A state older than the base has no answer once the changes between are forgotten."""
    old = graph(node("a", "L", p=1))
    indexes = PropertyIndexes(["L.p"], old)
    new = put(old, [(1, "L", 2)])
    indexes.changed(new.touched, new)
    assert indexes.candidates("L", "p", new, equal=2) == [1]

    assert indexes.candidates("L", "p", old, equal=1) is None


def test_rebuilt_when_much_has_changed():
    """A long list of changes gives way to a new base."""
    state = graph(node("x", "L", p=-1))
    indexes = PropertyIndexes(["L.p"], state)
    indexes.candidates("L", "p", state, equal=0)
    for at in range(3):
        state = put(state, [(at * 1000 + n, "L", n) for n in range(1000)])
        indexes.changed(state.touched, state)

    found = indexes.candidates("L", "p", state, equal=5)

    assert found is not None
    assert len(found) == 3


def test_an_index_learns_what_happens_while_its_base_is_built():
    """Under steady writes a base is kept, and knows every change since its state."""
    state = graph(*(node(str(n), "L", p=n) for n in range(50)))
    indexes = PropertyIndexes(["L.p"], state)
    for at in range(20):
        old, state = state, put(state, [(100 + at, "L", 7)])
        indexes.changed(state.touched, state)
        indexes.candidates("L", "p", old, equal=7)

        found = indexes.candidates("L", "p", state, equal=7)
        assert found is not None
        assert truth(state, {"equal": 7}) <= {*found}
        assert len(found) < 50


def test_a_fork_is_asked_about_as_what_it_was_made_from():
    """A base that knows more than a fork's origin is of no use to the fork, however much it did."""
    state = graph(node("1", "L", p=1))
    indexes = PropertyIndexes(["L.p"], state)
    forked = state.fork()
    for value in (5, 6, 7):
        forked = put(forked, [(9, "L", value)])
    newer = put(state, [(1, "L", 2)])
    indexes.changed(newer.touched, newer)
    assert indexes.candidates("L", "p", newer, equal=2) == [newer.slot_of("1")]

    assert indexes.candidates("L", "p", forked, equal=1) is None


def test_readers_beside_a_writer():
    """Readers in threads always find what the state that they took holds."""
    shown = [put(graph(), [(0, "L", 0)])]
    indexes = PropertyIndexes(["L.p"], shown[0])
    wrong = []

    def read():
        for _ in range(200):
            state = shown[0]
            found = indexes.candidates("L", "p", state, equal=1)
            if found is not None and not truth(state, {"equal": 1}) <= {*found}:
                wrong.append(state.serial)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for at in range(1500):
        state = put(shown[0], [(at % 40, "L", at % 3)])
        indexes.changed(state.touched, state)
        shown[0] = state
    for reader in readers:
        reader.join()

    assert wrong == []
