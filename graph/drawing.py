"""A picture of a part of a graph, as SVG: one file without scripts, fonts or images from elsewhere.

Colour tells labels, with a legend; an arrow's width and strength tell its confidence, which stands
beside it when it is not certain; dashes tell that an edge has ended. The picture brings its own
background, so that it can be read on a dark page as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from graph import drawing_marks as marks
from graph.drawing_captions import Captions
from graph.drawing_curves import Box, Curve, clear_curve, level_curve, loop_curve, loop_height
from graph.drawing_legend import Legend, legend_of
from graph.drawing_scene import CAPTION_SIZE, Link, Scene, scene_of
from graph.drawing_text import shortened, text_width, xml
from graph.errors import NodeMissing
from graph.export import Part
from graph.layout import Layout, laid_out
from graph.state import GraphState

NODES_MAX: Final = 300
"""Nodes in one picture; of a larger part the first are shown."""
LINKS_MAX: Final = 1_000
"""Lines in one picture; of more edges the most confident are shown."""
_MARGIN: Final = 30.0
_HEADER: Final = 56.0
_WIDTH_MIN: Final = 460.0
_PARALLEL: Final = 11.0
"""How far lines lie from each other that join the same two boxes in layers."""


class _Picture(NamedTuple):
    """A scene with a place for everything."""

    scene: Scene
    boxes: list[Box]
    curves: list[Curve]
    palette: marks.Palette


def draw_svg(state: GraphState, part: Part, *, title: str = "", center: str | None = None) -> str:
    """Return a picture of a part; the node `center` is marked.

    What is over the limits of a picture is left out, and the picture says so.
    """
    marked = None if center is None else state.slot_of(center)
    if center is not None and marked not in part.nodes:
        raise NodeMissing(f"There is no node {center!r} in this part.", field="center")
    shown, hidden_edges = _limited(part)
    scene = scene_of(state, shown)
    layout = laid_out(_sizes(scene), _links(scene))
    nodes = [state.node(slot) for slot in shown.nodes]
    edges = [entry.edge for entry in (*shown.edges, *shown.partial)]
    picture = _picture(scene, layout, marks.palette_of(nodes, edges))
    legend = legend_of(scene, picture.palette)
    return _page(picture, legend, (title, _facts(shown, hidden_edges)), marked)


def _limited(part: Part) -> tuple[Part, int]:
    """Return what fits into a picture, and how many edges do not."""
    part = part.first(NODES_MAX)
    strongest = sorted(part.edges, key=lambda entry: -entry.edge.confidence)
    totals = accumulate(max(len(entry.arcs), 1) for entry in strongest)
    kept = sum(total <= LINKS_MAX for total in totals)
    if kept == len(part.edges):
        return part, 0
    edges = tuple(sorted(strongest[:kept], key=lambda entry: entry.edge.id))
    return Part(part.nodes, edges, (), part.beyond, part.cut), len(strongest) - kept


def _facts(part: Part, hidden_edges: int) -> str:
    """Return the line under the title: what is shown, and what is not."""
    facts = [_count(len(part.nodes), "node"), _count(len(part.edges), "edge")]
    if part.partial:
        facts.append(f"{_count(len(part.partial), 'edge')} to members outside")
    if part.beyond:
        facts.append(f"{part.beyond:,} more nodes not shown")
    if hidden_edges:
        facts.append(f"{hidden_edges:,} more edges not shown")
    if part.cut not in (None, "nodes"):
        facts.append(f"cut short by the limit of {part.cut}")
    return "  ·  ".join(facts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


# -- places ---------------------------------------------------------------------------------------


def _sizes(scene: Scene) -> list[tuple[float, float]]:
    """Return the figures' sizes, with room above them for their loops."""
    loops = Counter(link.source for link in scene.links if link.source == link.target)
    return [
        (figure.width, figure.height + (2 * loop_height(loops[index]) if index in loops else 0))
        for index, figure in enumerate(scene.figures)
    ]


def _links(scene: Scene) -> list[tuple[int, int, float]]:
    """Return the links with the room that their captions take.

    Two relations that are each other's inverse would be a cycle. They are laid out as one, in the
    direction of the one whose label comes first.
    """
    bands = {band.runs[0][0]: band.caption for band in scene.bands}
    labels: dict[tuple[int, int], str] = {}
    for link in scene.links:
        ends = link.source, link.target
        labels[ends] = min(link.edge.label, labels.get(ends, link.edge.label))
    links = []
    for index, link in enumerate(scene.links):
        words = (link.source_role, link.caption, link.target_role)
        width = sum(text_width(word, CAPTION_SIZE) + 8 for word in words if word)
        width = max(width, text_width(bands.get(index, ""), CAPTION_SIZE))
        ends, opposite = (link.source, link.target), (link.target, link.source)
        mine, other = (labels[ends], ends), (labels.get(opposite, ""), opposite)
        if opposite in labels and other < mine:
            ends = opposite
        links.append((*ends, width + 26))
    return links


def _picture(scene: Scene, layout: Layout, palette: marks.Palette) -> _Picture:
    """Return the scene with all in place, the top left corner of its contents at the origin."""
    boxes = [
        Box(x, y, figure.width, figure.height)
        for (x, y), figure in zip(layout.points, scene.figures, strict=True)
    ]
    curves = _curves(scene.links, boxes, layout)
    return _Picture(scene, boxes, curves, palette)


def _curves(links: Sequence[Link], boxes: Sequence[Box], layout: Layout) -> list[Curve]:
    together: dict[tuple[int, int], list[int]] = {}
    for index, link in enumerate(links):
        ends = min(link.source, link.target), max(link.source, link.target)
        together.setdefault(ends, []).append(index)
    curves: dict[int, Curve] = {}
    for indexes in together.values():
        for number, index in enumerate(indexes):
            link = links[index]
            if link.source == link.target:
                curves[index] = loop_curve(boxes[link.source], number)
            else:
                aside = number - (len(indexes) - 1) / 2
                curves[index] = _curve(link, boxes, layout, aside)
    return [curves[index] for index in range(len(links))]


def _curve(link: Link, boxes: Sequence[Box], layout: Layout, aside: float) -> Curve:
    source, target = boxes[link.source], boxes[link.target]
    route = layout.routes.get((link.source, link.target))
    if route is None:
        others = [box for box in boxes if box not in (source, target)]
        bend = aside if link.source < link.target else -aside
        return clear_curve(source, target, others, bend)
    reach = min(source.height, target.height) / 2 - 5
    shift = max(-reach, min(reach, aside * _PARALLEL))
    return level_curve([(x, y + shift) for x, y in route])


# -- the page -------------------------------------------------------------------------------------


def _page(picture: _Picture, legend: Legend, words: tuple[str, str], marked: int | None) -> str:
    left, top, right, low = _extent(picture)
    width = max(right - left, _WIDTH_MIN, min(text_width(words[1], 12), 900))
    title = shortened(words[0], width, 19)
    header = _HEADER if title else _HEADER / 2
    rows = legend.rows(width)
    height = header + low - top + 12 + rows.height
    page = Box(width / 2 + _MARGIN, height / 2 + _MARGIN, width + 2 * _MARGIN, height + 2 * _MARGIN)
    x = _MARGIN - left + (width - (right - left)) / 2
    y = _MARGIN + header - top
    size = f"{page.width:.0f} {page.height:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"'
            f' width="{page.width:.0f}" height="{page.height:.0f}" role="img"'
            " font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">",
            f"<title>{xml(words[0] or words[1])}</title>",
            marks.rect(page, 12, f'fill="{marks.PAGE}"'),
            *_heading(title, words[1]),
            f'<g transform="translate({x:.1f},{y:.1f})">',
            *_contents(picture, marked),
            "</g>",
            f'<g transform="translate({_MARGIN:.1f},{_MARGIN + header + low - top + 24:.1f})">',
            *rows.elements,
            "</g>",
            "</svg>\n",
        ]
    )


def _heading(title: str, facts: str) -> Iterator[str]:
    below = f'font-size="12" fill="{marks.FAINT}"'
    if title:
        yield marks.text(
            _MARGIN, _MARGIN + 12, title, f'font-size="18" font-weight="bold" fill="{marks.INK}"'
        )
    yield marks.text(_MARGIN, _MARGIN + (31 if title else 8), facts, below)


def _extent(picture: _Picture) -> tuple[float, float, float, float]:
    if not picture.boxes:
        return 0.0, 0.0, 0.0, 0.0
    corners = [
        (box.x + sign * (box.width / 2 + 6), box.y + sign * (box.height / 2 + 6))
        for box in picture.boxes
        for sign in (-1, 1)
    ]
    corners += [point for curve in picture.curves for point in curve.points()]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _contents(picture: _Picture, marked: int | None) -> Iterator[str]:
    """Yield what lies lowest first: bands, lines, boxes, captions."""
    scene, palette = picture.scene, picture.palette
    ends = [(picture.boxes[link.source], picture.boxes[link.target]) for link in scene.links]
    for band in scene.bands:
        look = f'fill="none" stroke="{marks.pale(palette.line(band.edge), 0.6)}" opacity="0.22"'
        yield f'<g {look} stroke-width="26" stroke-linejoin="round" stroke-linecap="round">'
        yield marks.band(band, picture.curves, ends) + "</g>"
    for link, curve in zip(scene.links, picture.curves, strict=True):
        yield marks.arrow(link, curve, palette.line(link.edge))
    for figure, box in zip(scene.figures, picture.boxes, strict=True):
        if figure.node is not None:
            colour = palette.card(figure.node)
            yield marks.card(figure, box, colour, marked=figure.node.slot == marked)
        else:
            assert figure.edge is not None, "a figure is a node's or an edge's"
            yield marks.plate(figure, box, palette.line(figure.edge))
    yield f'<g font-size="{CAPTION_SIZE:g}" text-anchor="middle">'
    yield from _captions(picture)
    yield "</g>"


def _captions(picture: _Picture) -> Iterator[str]:
    scene, captions = picture.scene, Captions(picture.boxes, picture.curves)
    for band in scene.bands:
        first = picture.curves[band.runs[0][0]]
        colour = picture.palette.line(band.edge)
        yield marks.caption(captions.place(band.caption, first, "begin"), colour, bold=True)
    degrees = Counter(end for link in scene.links for end in (link.source, link.target))
    for link, curve in zip(scene.links, picture.curves, strict=True):
        colour = picture.palette.line(link.edge)
        if link.caption:
            where = _away(degrees[link.source], degrees[link.target])
            yield marks.caption(captions.place(link.caption, curve, where), colour)
        for role, where in ((link.source_role, "begin"), (link.target_role, "end")):
            if role:
                yield marks.caption(captions.place(role, curve, where), marks.FAINT)


def _away(source_degree: int, target_degree: int) -> str:
    """Return where a caption is away from a crowd of lines."""
    if source_degree > 2 * target_degree:
        return "late"
    return "early" if target_degree > 2 * source_degree else "middle"
