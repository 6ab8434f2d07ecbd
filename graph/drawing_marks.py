"""How things look: cards, plates, arrows, bands and captions, as SVG elements.

Colours are told apart by people who do not see them like most others; the cards take those of
Okabe and Ito, pale inside and full at the border, the lines darker ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from graph.drawing_captions import Caption
from graph.drawing_curves import Box, Curve, head, shortened_curve
from graph.drawing_scene import CAPTION_SIZE, TITLE_SIZE, Band, Figure, Link, by_frequency
from graph.drawing_text import xml
from graph.model import Edge, Node
from graph.shapes import moment

PAGE: Final = "#fcfcfa"
INK: Final = "#1f2933"
FAINT: Final = "#66707a"
OTHER: Final = "#8a939c"
CARD_COLOURS: Final = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#c9b400",
)
LINE_COLOURS: Final = (
    "#48566a",
    "#b5432a",
    "#117733",
    "#7a4fa3",
    "#9a6b00",
    "#1f78a8",
    "#882255",
)
TOOLTIP_MAX: Final = 400


class Palette(NamedTuple):
    """Colours by label; what has none is grey."""

    cards: dict[str, str]
    lines: dict[str, str]

    def card(self, node: Node) -> str:
        """Return a node's colour: that of its first label."""
        return self.cards.get(node.labels[0], OTHER) if node.labels else OTHER

    def line(self, edge: Edge) -> str:
        """Return an edge's colour."""
        return self.lines.get(edge.label, OTHER)


def palette_of(nodes: Sequence[Node], edges: Sequence[Edge]) -> Palette:
    """Return colours for the most frequent labels."""
    cards = by_frequency(node.labels[0] for node in nodes if node.labels)
    lines = by_frequency(edge.label for edge in edges)
    return Palette(
        dict(zip(cards, CARD_COLOURS, strict=False)), dict(zip(lines, LINE_COLOURS, strict=False))
    )


def pale(colour: str, share: float) -> str:
    """Return a colour mixed into the page's."""
    parts = (
        round(int(PAGE[at : at + 2], 16) * (1 - share) + int(colour[at : at + 2], 16) * share)
        for at in (1, 3, 5)
    )
    return "#" + "".join(f"{part:02x}" for part in parts)


def ended(edge: Edge) -> bool:
    """Return whether the world or the store has let go of an edge."""
    return edge.expired is not None or edge.invalid_at is not None


def rect(box: Box, radius: float, attributes: str) -> str:
    """Return a rectangle with round corners."""
    x, y = box.x - box.width / 2, box.y - box.height / 2
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        f' rx="{radius:g}" {attributes}/>'
    )


def text(x: float, y: float, words: str, attributes: str) -> str:
    """Return a line of text; `y` is that of its base."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{xml(words)}</text>'


def card(figure: Figure, box: Box, colour: str, *, marked: bool) -> str:
    """Return a node's card; a marked one has a second border."""
    node = figure.node
    assert node is not None, "a card is a node's"
    parts = [f"<g><title>{xml(_node_tooltip(node))}</title>"]
    if marked:
        outer = Box(box.x, box.y, box.width + 9, box.height + 9)
        parts.append(rect(outer, 13, f'fill="none" stroke="{INK}" stroke-width="2"'))
    stroke = f'fill="{pale(colour, 0.17)}" stroke="{colour}" stroke-width="1.6"'
    parts.append(rect(box, 9, stroke))
    weight = ' font-weight="bold"' if marked else ""
    first = box.y - (len(figure.lines) - 1) * 8 + TITLE_SIZE * 0.35
    for number, line in enumerate(figure.lines):
        attributes = f'font-size="{TITLE_SIZE:g}" text-anchor="middle" fill="{INK}"{weight}'
        parts.append(text(box.x, first + number * 16, line, attributes))
    return "".join((*parts, "</g>"))


def plate(figure: Figure, box: Box, colour: str) -> str:
    """Return the plate of an edge with roles."""
    assert figure.edge is not None, "a plate is an edge's"
    dashes = ' stroke-dasharray="4 3"' if ended(figure.edge) else ""
    look = f'fill="{pale(colour, 0.92)}" stroke="{PAGE}" stroke-width="1.4"{dashes}'
    words = f'font-size="{CAPTION_SIZE:g}" text-anchor="middle" fill="#ffffff"'
    return (
        f"<g><title>{xml(_edge_tooltip(figure.edge))}</title>{rect(box, 10, look)}"
        f"{text(box.x, box.y + CAPTION_SIZE * 0.35, figure.lines[0], words)}</g>"
    )


def arrow(link: Link, curve: Curve, colour: str) -> str:
    """Return a link's line, wide and strong as its confidence, with its head."""
    width = 1.1 + 1.5 * min(1.0, link.confidence)
    size = 6.0 + 1.8 * width
    opacity = f"{0.45 + 0.55 * min(1.0, link.confidence):.2f}"
    line = shortened_curve(curve, size * 0.8) if link.head else curve
    dashes = ' stroke-dasharray="6 4"' if ended(link.edge) else ""
    parts = [
        f'<g opacity="{opacity}"><title>{xml(_edge_tooltip(link.edge))}</title>',
        f'<path d="{line.path()}" fill="none" stroke="{colour}" stroke-width="{width:.1f}"'
        f' stroke-linecap="round"{dashes}/>',
    ]
    if link.head:
        parts.append(f'<polygon points="{head(curve, size)}" fill="{colour}"/>')
    return "".join((*parts, "</g>"))


def band(found: Band, curves: Sequence[Curve], boxes: Sequence[tuple[Box, Box]]) -> str:
    """Return the band under a chain, through the middles of its members."""
    parts = []
    for run in found.runs:
        data = ""
        for index in run:
            source, target = boxes[index]
            begin = curves[index].segments[0][0]
            data += "" if data else f"M{source.x:.1f},{source.y:.1f}"
            data += f"L{begin[0]:.1f},{begin[1]:.1f}{curves[index].path_onward()}"
            data += f"L{target.x:.1f},{target.y:.1f}"
        parts.append(data)
    return f'<path d="{"".join(parts)}"/>'


def caption(found: Caption, colour: str, *, bold: bool = False) -> str:
    """Return a caption, with an edge of the page's colour around its letters."""
    weight = ' font-weight="bold"' if bold else ""
    return text(
        found.box.x,
        found.box.y + CAPTION_SIZE * 0.35,
        found.text,
        f'fill="{colour}" stroke="{PAGE}" stroke-width="3.2" stroke-linejoin="round"'
        f' paint-order="stroke"{weight}',
    )


def _node_tooltip(node: Node) -> str:
    head = f"{node.id}  :{':'.join(node.labels)}" if node.labels else node.id
    return f"{head}\n{node.raw.decode()}"[:TOOLTIP_MAX]


def _edge_tooltip(edge: Edge) -> str:
    parts = [f"{edge.label}  {edge.id}", f"confidence {edge.confidence:.3g}"]
    times = {"valid_at": edge.valid_at, "invalid_at": edge.invalid_at, "expired_at": edge.expired}
    parts += [f"{name} {moment(value)}" for name, value in times.items() if value is not None]
    return f"{', '.join(parts)}\n{edge.raw.decode()}"[:TOOLTIP_MAX]
