"""What is to be seen in a picture, before anything has a place.

Nodes are cards. A hyperedge of two members is an arrow. An ordered one of more is an arrow for
each step, on a band that holds them together; one with roles is a small plate between its members,
joined to each by a line that tells the role. Of a partial edge that is shown what lies within the
part, and the plate or the band says how many members are outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from graph.drawing_text import text_width, wrapped
from graph.export import Part, title_of
from graph.model import Arc, Edge, Node
from graph.state import EdgeEntry, GraphState

TITLE_SIZE: Final = 13.0
CAPTION_SIZE: Final = 10.5
_TITLE_WIDTH: Final = 150.0
_LINE_HEIGHT: Final = 16.0
LABELS_CAPTIONED_MAX: Final = 60
"""With more arrows than that their labels are told by colour alone."""
CAPTIONED_MAX: Final = 250
"""With more lines than that nobody could read their numbers."""


class Figure(NamedTuple):
    """A card of a node, or a plate of an edge, with its text."""

    width: float
    height: float
    lines: tuple[str, ...]
    node: Node | None = None
    edge: Edge | None = None


class Link(NamedTuple):
    """A line from figure to figure; `head`: it is an arrow. The captions stand near its ends and
    in its middle."""

    source: int
    target: int
    edge: Edge
    confidence: float
    head: bool = True
    caption: str = ""
    source_role: str = ""
    target_role: str = ""


class Band(NamedTuple):
    """The links that are one ordered edge, by index, in runs without a gap."""

    edge: Edge
    runs: tuple[tuple[int, ...], ...]
    caption: str


class Scene(NamedTuple):
    """See the module."""

    figures: list[Figure]
    links: list[Link]
    bands: list[Band]


def scene_of(state: GraphState, part: Part) -> Scene:
    """Return what a picture of a part shows."""
    scene = Scene([_card(state.node(slot)) for slot in part.nodes], [], [])
    places = {slot: index for index, slot in enumerate(part.nodes)}
    labelled = _labels_are_captioned(part)
    for entry in (*part.edges, *part.partial):
        edge = entry.edge
        if len(edge.members) == 2:
            _add_arrow(scene, places, entry.arcs[0], labelled=labelled)
        elif edge.roles:
            _add_plate(scene, places, edge)
        else:
            _add_chain(scene, places, entry)
    if len(scene.links) > CAPTIONED_MAX:
        return scene._replace(links=[link._replace(caption="") for link in scene.links])
    return scene


def _labels_are_captioned(part: Part) -> bool:
    """A label that all arrows share, or that there is no room for, is in the legend only."""
    arrows = [entry.edge for entry in part.edges if len(entry.edge.members) == 2]
    labels = Counter(edge.label for edge in arrows)
    return len(labels) > 1 and len(arrows) <= LABELS_CAPTIONED_MAX


def _card(node: Node) -> Figure:
    lines = wrapped(title_of(node), _TITLE_WIDTH, TITLE_SIZE, 2)
    width = max(text_width(line, TITLE_SIZE) for line in lines)
    return Figure(max(44.0, width + 24), len(lines) * _LINE_HEIGHT + 14, lines, node=node)


def _add_arrow(scene: Scene, places: dict[int, int], arc: Arc, *, labelled: bool) -> None:
    edge = arc.edge
    words = (edge.label if labelled else "", number_of(arc.confidence))
    roles = list(_roles(edge)) or ["", ""]
    ends = places[arc.source], places[arc.target]
    caption = " ".join(filter(None, words))
    scene.links.append(
        Link(
            *ends, edge, arc.confidence, caption=caption, source_role=roles[0], target_role=roles[1]
        )
    )


def _add_plate(scene: Scene, places: dict[int, int], edge: Edge) -> None:
    outside = sum(member not in places for member in edge.members)
    text = " ".join(filter(None, (edge.label, number_of(edge.confidence), _more(outside))))
    lines = wrapped(text, _TITLE_WIDTH, CAPTION_SIZE, 1)
    plate = len(scene.figures)
    width = text_width(lines[0], CAPTION_SIZE) + 18
    scene.figures.append(Figure(width, 20.0, lines, edge=edge))
    for index, (member, role) in enumerate(zip(edge.members, _roles(edge), strict=True)):
        if member not in places:
            continue
        line = Link(places[member], plate, edge, edge.confidence, head=False, source_role=role)
        if index >= edge.roles[0][1]:
            line = Link(plate, places[member], edge, edge.confidence, target_role=role)
        scene.links.append(line)


def _roles(edge: Edge) -> Iterator[str]:
    for role, count in edge.roles:
        yield from [role] * count


def _add_chain(scene: Scene, places: dict[int, int], entry: EdgeEntry) -> None:
    runs: list[list[int]] = [[]]
    for arc in entry.arcs:
        if arc.source in places and arc.target in places:
            runs[-1].append(len(scene.links))
            ends = places[arc.source], places[arc.target]
            caption = number_of(arc.confidence)
            scene.links.append(Link(*ends, entry.edge, arc.confidence, caption=caption))
        elif runs[-1]:
            runs.append([])
    edge = entry.edge
    outside = sum(member not in places for member in edge.members)
    words = (edge.label, number_of(edge.confidence), _more(outside))
    full = tuple(tuple(run) for run in runs if run)
    scene.bands.append(Band(edge, full, " ".join(filter(None, words))))


def _more(outside: int) -> str:
    return f"(+{outside})" if outside else ""


def number_of(confidence: float) -> str:
    """Return a confidence as it is written in a picture; certainty needs no words."""
    if confidence > 0.995:
        return ""
    return "<0.01" if confidence < 0.01 else f"{confidence:.2f}"


def by_frequency(names: Iterable[str]) -> list[str]:
    """Return names once each, the most frequent first."""
    return [name for name, _ in sorted(Counter(names).items(), key=_frequent_first)]


def _frequent_first(item: tuple[str, Any]) -> tuple[int, str]:
    return -item[1], item[0]
