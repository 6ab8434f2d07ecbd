"""A chain of events as a change of a graph."""

import orjson
import pytest

from graph.causality_writes import Event, chain_changes
from graph.errors import BadQuery

EVENTS = [
    Event(id="a", type="root_cause", timestamp=7, agent_id="me", data={"n": 1}),
    Event(id="b", properties={"x": [2]}),
    Event(id="c", labels=("Outcome",)),
]


def test_a_chain_becomes_nodes_and_one_edge():
    """Events keep what is known of them, and each pair its confidence."""
    changes = chain_changes(EVENTS, [0.5, 0.8], "e", valid_at=5)
    (edge,) = changes.edges

    assert [node.id for node in changes.nodes] == ["a", "b", "c"]
    assert [node.labels for node in changes.nodes] == [("Event",), ("Event",), ("Outcome",)]
    assert [orjson.loads(node.properties) for node in changes.nodes] == [
        {"type": "root_cause", "timestamp": 7, "agentId": "me", "data": {"n": 1}},
        {"x": [2]},
        {},
    ]
    assert (edge.label, edge.members, edge.valid_at) == ("CAUSED_BY", ("a", "b", "c"), 5)
    assert (edge.arc_confidences, edge.confidence) == ((0.5, 0.8), 0.4)
    assert orjson.loads(edge.properties) == {"chain_length": 3}


def test_a_chain_without_confidences_is_asserted():
    """Nothing said against it, each step is sure, and the edge says how that is known."""
    (edge,) = chain_changes(EVENTS, [], "e", label="LEADS_TO").edges

    assert (edge.label, edge.arc_confidences, edge.confidence) == ("LEADS_TO", (), 1.0)
    assert orjson.loads(edge.properties) == {"chain_length": 3, "method": "asserted"}


def test_properties_are_canonical():
    """Keys are sorted, so that replicas agree on every byte."""
    changes = chain_changes(
        [Event(id="a", type="t", properties={"z": 1, "b": 2}), EVENTS[1]], [], "e"
    )

    assert changes.nodes[0].properties == b'{"b":2,"type":"t","z":1}'


def test_an_event_may_come_twice():
    """A circle has one node less than members; two accounts of one event contradict each other."""
    circle = [*EVENTS, EVENTS[0]]

    assert len(chain_changes(circle, [], "e").nodes) == 3
    with pytest.raises(BadQuery) as refused:
        chain_changes([*EVENTS, Event(id="a", type="other")], [], "e")
    assert refused.value.field == "events[3].id"


@pytest.mark.parametrize(
    ("events", "confidences", "edge_id", "field"),
    [
        (EVENTS[:1], [], "e", "events"),
        (EVENTS * 100, [], "e", "events"),
        (EVENTS, [0.5], "e", "confidences"),
        (EVENTS, [0.5, 1.5], "e", "confidences"),
        (EVENTS, [0.5, float("nan")], "e", "confidences"),
        (EVENTS, [], "", "id"),
        ([*EVENTS, Event(id="")], [], "e", "events[3].id"),
        ([*EVENTS, Event(id="x", labels=("A", "A"))], [], "e", "events[3].labels"),
        (
            [*EVENTS, Event(id="x", type="t", properties={"type": "t"})],
            [],
            "e",
            "events[3].properties.type",
        ),
        ([*EVENTS, Event(id="x", properties={"at": {1}})], [], "e", "events[3].properties"),
    ],
)
def test_the_culprit_is_named(events, confidences, edge_id, field):
    """What cannot be stored is refused, in the words of the request."""
    with pytest.raises(BadQuery) as refused:
        chain_changes(events, confidences, edge_id)

    assert field == refused.value.field
