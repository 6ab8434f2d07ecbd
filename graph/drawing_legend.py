"""The legend of a picture: only what occurs in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from graph import drawing_marks as marks
from graph.drawing_curves import Box
from graph.drawing_scene import Scene, number_of
from graph.drawing_text import shortened, text_width

_SIZE: Final = 11.5
_ROW: Final = 21.0
_SWATCH: Final = 30.0
_WORDS_MAX: Final = 220.0

Sign = Literal["card", "line", "dashes", "band", "none"]


class Item(NamedTuple):
    """A sign, and what it means."""

    sign: Sign
    colour: str
    words: str


class Rows(NamedTuple):
    """A legend broken into rows."""

    elements: list[str]
    height: float


class Legend(NamedTuple):
    """Items in groups; each group begins a row."""

    groups: list[list[Item]]

    def rows(self, width: float) -> Rows:
        """Return the legend in rows of at most that width."""
        elements: list[str] = []
        y = 8.0
        for group in filter(None, self.groups):
            x = 0.0
            for item in group:
                words = shortened(item.words, _WORDS_MAX * 2, _SIZE)
                needed = _SWATCH + text_width(words, _SIZE) + 18
                if x and x + needed > width:
                    x, y = 0.0, y + _ROW
                elements += _drawn(item._replace(words=words), x, y)
                x += needed
            y += _ROW
        return Rows(elements, y - 8)


def legend_of(scene: Scene, palette: marks.Palette) -> Legend:
    """Return the legend of a scene."""
    cards = [Item("card", colour, label) for label, colour in palette.cards.items()]
    nodes = [figure.node for figure in scene.figures if figure.node is not None]
    if any(palette.card(node) == marks.OTHER for node in nodes):
        cards.append(Item("card", marks.OTHER, "other" if cards else "no label"))
    lines = [Item("line", colour, label) for label, colour in palette.lines.items()]
    if any(palette.line(link.edge) == marks.OTHER for link in scene.links):
        lines.append(Item("line", marks.OTHER, "other"))
    return Legend([cards, lines, list(_remarks(scene))])


def _remarks(scene: Scene) -> Iterator[Item]:
    if scene.bands:
        yield Item("band", marks.LINE_COLOURS[0], "one chain")
    if any(marks.ended(link.edge) for link in scene.links):
        yield Item("dashes", marks.LINE_COLOURS[0], "has ended")
    if any(number_of(link.confidence) and link.caption for link in scene.links):
        yield Item("none", marks.INK, "numbers: confidence, 1 where there is none")


def _drawn(item: Item, x: float, y: float) -> Iterator[str]:
    middle = y - 4
    if item.sign == "card":
        look = f'fill="{marks.pale(item.colour, 0.17)}" stroke="{item.colour}" stroke-width="1.6"'
        yield marks.rect(Box(x + 11, middle, 20, 12), 4, look)
    elif item.sign == "none":
        yield marks.text(x, y, "0.85", f'font-size="10" fill="{item.colour}"')
    else:
        wide = item.sign == "band"
        look = f'stroke="{item.colour}" stroke-width="{12 if wide else 2.2}"'
        look += ' opacity="0.15"' if wide else ""
        look += ' stroke-dasharray="6 4"' if item.sign == "dashes" else ""
        yield f'<path d="M{x:.1f},{middle:.1f}h22" fill="none" {look}/>'
    yield marks.text(x + _SWATCH, y, item.words, f'font-size="{_SIZE:g}" fill="{marks.FAINT}"')
