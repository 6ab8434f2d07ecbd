"""Pictures: that all is there, stands where it can be read, and is safe to open."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph.budget import Budget
from graph.drawing import LINKS_MAX, NODES_MAX, draw_svg
from graph.drawing_captions import Captions
from graph.drawing_curves import Box, border_curve, clear_curve, level_curve
from graph.drawing_scene import number_of, scene_of
from graph.drawing_text import shortened, text_width, wrapped, xml
from graph.errors import NodeMissing
from graph.export import neighbourhood, whole
from graph.layout import laid_out
from tests.small_graphs import NODES, a_graph, a_node, an_edge, drawn_graphs

SVG = "{http://www.w3.org/2000/svg}"


def everything(state, **wanted):
    return whole(state, budget=Budget(1_000_000), **wanted)


def drawn(state, **fields):
    text = draw_svg(state, everything(state), **fields)
    return ElementTree.fromstring(text)


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def sizes_of(count):
    return [(60.0 + 40 * (at % 3), 30.0) for at in range(count)]


def apart(points, sizes):
    """Return whether no two boxes overlap."""
    boxes = [Box(*point, *size) for point, size in zip(points, sizes, strict=True)]
    return all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


def near_border(box, point):
    return box.holds(point, 5) and not box.holds(point, -1)


@settings(deadline=None, max_examples=25)
@given(edges=drawn_graphs(8))
def test_any_graph_can_be_drawn(edges):
    """The picture is well-formed, has each node and each arrow, and is always the same."""
    state = a_graph(edges, [a_node(each) for each in NODES])
    part = everything(state, known_at=60)
    text = draw_svg(state, part, center="a")
    root = ElementTree.fromstring(text)
    heads = len(list(root.iter(f"{SVG}polygon")))

    assert set(NODES) <= set(words(root))
    assert heads == sum(link.head for link in scene_of(state, part).links)
    assert draw_svg(state, part, center="a") == text


HOSTILE = '</text><script>alert(1)</script>"&\x00\x1b\u202e]]>'


def test_texts_are_only_texts():
    """Nothing that users write becomes part of the picture's language."""
    nodes = [a_node("a", labels=(HOSTILE,), title=HOSTILE), a_node("b")]
    edges = [
        an_edge("e", "ab", label=HOSTILE),
        an_edge("f", "ba", label="x"),
        an_edge("g", "aab", label="y", roles=((HOSTILE, 1), ("to", 2))),
    ]
    text = draw_svg(a_graph(edges, nodes), everything(a_graph(edges, nodes)), title=HOSTILE)
    root = ElementTree.fromstring(text)
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    attributes = {name for element in root.iter() for name in element.attrib}

    assert tags <= {"svg", "title", "g", "rect", "path", "polygon", "text"}
    assert not [name for name in attributes if name.startswith("on") or "href" in name]


def test_colours_captions_and_dashes_tell_the_rest():
    """Roles, confidences, labels and ended edges can be seen, and the legend explains them."""
    nodes = [a_node(each, labels=("Event",)) for each in "abcde"]
    edges = [
        an_edge("plate", "abc", "LEADS_TO", roles=(("cause", 1), ("effect", 2)), confidence=0.75),
        an_edge("chain", "cde", "CAUSED_BY", arc_confidences=(0.5, 0.9), confidence=0.45),
        an_edge("old", "ad", "MENTIONS", invalid_at=9),
    ]
    text = draw_svg(a_graph(edges, nodes), everything(a_graph(edges, nodes)), center="a")
    seen = words(ElementTree.fromstring(text))

    assert seen.count("effect") == 2
    assert {"cause", "LEADS_TO 0.75", "CAUSED_BY 0.45", "0.50", "0.90"} <= set(seen)
    assert {"Event", "LEADS_TO", "CAUSED_BY", "MENTIONS", "one chain", "has ended"} <= set(seen)
    assert "stroke-dasharray" in text
    assert text.count('font-weight="bold"') == 2


def test_what_is_left_out_is_said():
    """More nodes than fit, edges that lead outside, and searches cut short are told."""
    star = [an_edge(f"e{at:03}", ["hub", f"n{at:03}"]) for at in range(NODES_MAX + 20)]
    chain = a_graph([an_edge("chain", "abcde")])
    near = neighbourhood(chain, ["c"], 1, budget=Budget(100))
    cut = neighbourhood(chain, ["c"], 2, budget=Budget(2))

    assert "21 more nodes not shown" in " ".join(words(drawn(a_graph(star))))
    assert "1 edge to members outside" in draw_svg(chain, near)
    assert "LEADS_TO (+2)" in draw_svg(chain, near)
    assert "cut short by the limit of expansions" in draw_svg(chain, cut)


def test_of_too_many_edges_the_most_confident():
    """A picture with more lines than anybody can follow shows the strongest."""
    pairs = itertools.islice(itertools.permutations(range(60), 2), LINKS_MAX + 7)
    edges = [
        an_edge(f"e{at}", [f"n{a}", f"n{b}"], confidence=0.1 if at < 7 else 0.9)
        for at, (a, b) in enumerate(pairs)
    ]
    state = a_graph(edges)
    root = drawn(state)

    assert len(list(root.iter(f"{SVG}polygon"))) == LINKS_MAX
    assert "7 more edges not shown" in " ".join(words(root))
    assert "0.10" not in words(root)


def test_center_has_to_be_in_the_picture():
    """A mark on nothing is refused."""
    state = a_graph([an_edge("e", "ab"), an_edge("f", "cd")])
    part = neighbourhood(state, ["a"], 1, budget=Budget(100))

    for center in ("c", "z"):
        with pytest.raises(NodeMissing):
            draw_svg(state, part, center=center)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 14),
    links=st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=30),
)
def test_boxes_never_overlap(count, links):
    """Whatever is joined to whatever, and in however many parts."""
    sizes = sizes_of(count)
    known = [(a, b, 20.0) for a, b in links if a < count and b < count]

    assert apart(laid_out(sizes, known).points, sizes)


@settings(deadline=None, max_examples=60)
@given(links=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=18))
def test_effects_are_right_of_their_causes(links):
    """Without cycles each line goes to the right, from border to border, in steps that do."""
    forward = [(a, b, 20.0) for a, b in sorted(links) if a < b]
    sizes = sizes_of(12)
    layout = laid_out(sizes, forward)

    for a, b, _ in forward:
        route = layout.routes[a, b]
        assert [x for x, _ in route] == sorted(x for x, _ in route)
        assert math.isclose(route[0][0], layout.points[a][0] + sizes[a][0] / 2)
        assert math.isclose(route[-1][0], layout.points[b][0] - sizes[b][0] / 2)


def test_layers_avoid_crossings():
    """A tree is drawn without any, though its leaves are numbered across."""
    links = [(0, 1, 0.0), (0, 2, 0.0), *((1 + leaf % 2, 3 + leaf, 0.0) for leaf in range(8))]
    points = laid_out(sizes_of(11), links).points
    order = sorted(range(3, 11), key=lambda leaf: points[leaf][1])
    families = [key for key, _ in itertools.groupby(order, key=lambda leaf: leaf % 2)]

    assert len(families) == 2


def test_hub_is_staggered_and_a_ring_is_not_in_layers():
    """Many leaves take two columns; a graph that runs in circles has no left and right."""
    star = [(0, leaf, 60.0) for leaf in range(1, 41)]
    ring = [(at, (at + 1) % 5, 0.0) for at in range(5)]
    layout = laid_out([(60.0, 30.0)] * 41, star)

    assert len({round(x) for x, _ in layout.points}) == 3
    assert apart(layout.points, [(60.0, 30.0)] * 41)
    assert laid_out(sizes_of(5), ring).routes == {}


@given(
    x=st.integers(-300, 300), y=st.integers(-300, 300), bend=st.sampled_from((-1.5, 0.0, 0.5, 2.0))
)
def test_lines_end_at_borders(x, y, bend):
    """An arrow touches its boxes from outside."""
    source, target = Box(0, 0, 80, 30), Box(x, y, 100, 46)
    if source.overlap(Box(x, y, 190, 130)):
        return
    points = border_curve(source, target, bend).points()

    assert near_border(source, points[0])
    assert near_border(target, points[-1])


def test_lines_go_round_boxes():
    """A box in the way is passed with a bend."""
    source, target, between = Box(0, 0, 40, 20), Box(300, 0, 40, 20), Box(150, 0, 60, 30)
    curve = clear_curve(source, target, [between], 0.0)

    assert not any(between.holds(point) for point in curve.points())


def test_captions_keep_off_each_other():
    """Several captions of one line find places of their own beside it."""
    curve = level_curve([(0.0, 0.0), (600.0, 0.0)])
    captions = Captions([Box(0, 0, 60, 30), Box(600, 0, 60, 30)], [curve])
    boxes = [captions.place(f"caption {at}", curve, "middle").box for at in range(4)]

    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert not any(box.holds((box.x, 0.0)) for box in boxes)


@given(text=st.text(max_size=60), width=st.floats(20, 200), lines=st.integers(1, 3))
def test_texts_fit(text, width, lines):
    """Lines are no wider than asked, and what is written without an ellipsis is complete."""
    got = wrapped(text, width, 12, lines)

    assert len(got) <= lines
    assert all(text_width(line, 12) <= width + 1 for line in got)
    if got and not got[-1].endswith("…"):
        assert "".join("".join(got).split()) == "".join(text.split())


def test_signs_are_not_taken_apart():
    """An accent stays with its letter when a text is shortened."""
    text = "e\u0301" * 20
    cut = shortened(text, 60, 12)

    assert re.fullmatch("(e\u0301)+…", cut)


@given(st.text())
def test_xml_is_well_formed(text):
    """Any text can stand in an element and in an attribute."""
    root = ElementTree.fromstring(f'<a b="{xml(text)}">{xml(text)}</a>')

    assert (root.text or "").replace("\r", "\n") == re.sub(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text
    ).replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("confidence", "number"),
    [(1.0, ""), (0.999, ""), (0.85, "0.85"), (0.5, "0.50"), (0.001, "<0.01"), (0.0, "<0.01")],
)
def test_numbers_of_confidence(confidence, number):
    """Certainty needs no number, and next to nothing is not written as nothing."""
    assert number_of(confidence) == number
