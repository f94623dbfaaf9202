"""The picture of the packages: the layers of the import-linter contract, and the imports between the packages."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, permutations
from typing import Final, NamedTuple

from drawing.source import Source
from drawing.svg import Picture, Rect, width_of, wrapped

WIDTH: Final = 960
MARGIN: Final = 24
BOX_WIDTHS: Final = (400, 300, 264, 198)
"""The width of a box in a row of one, two, three and four."""
BOX_PADDING: Final = 14
LINE_HEIGHT: Final = 18
GAP: Final = 56
LANE: Final = 10
"""Distance between two arrows that pass the same gap, and between an arrow and a box."""
CHIP_HEIGHT: Final = 34
BANDS: Final = (
    "Support modules, imported by the packages above",
    "Imported by the packages and modules above",
)
"""The headings of the lowest layers. They get no arrows, because most packages import them."""

Point = tuple[float, float]


class Arrow(NamedTuple):
    """The package `importer` imports the package `imported`."""

    importer: str
    imported: str


def draw(source: Source) -> str:
    layers = source.layers[: -len(BANDS)]
    arrows = _arrows(source, {name for layer in layers for name in layer})
    picture = Picture(
        WIDTH,
        "The packages of agentd",
        "Each row is a layer, and a package imports only from lower rows. "
        + "; ".join(f"{one.importer} imports {one.imported}" for one in arrows),
    )
    boxes = _boxes_with_short_arrows(source, layers, arrows)
    for name, rect in boxes.items():
        _draw_box(picture, source, name, rect)
    for points in _routes(boxes, arrows):
        picture.arrow(points)
    y = max(rect.bottom for rect in boxes.values()) + GAP / 2
    for layer, heading in zip(source.layers[-len(BANDS) :], BANDS, strict=True):
        y = _draw_band(picture, layer, heading, y) + MARGIN / 2
    note = "An arrow is an import. Imports that a chain of arrows implies have no arrow of their own."
    picture.text(MARGIN, y + LINE_HEIGHT, note, "note", limit=WIDTH - 2 * MARGIN)
    return picture.svg(y + 2 * LINE_HEIGHT)


# Imports.


def _arrows(source: Source, shown: set[str]) -> list[Arrow]:
    """The imports between the packages `shown`, without those that a chain of others implies."""
    imports = {name: source.imports.get(name, set()) & shown for name in shown}

    def reached(name: str) -> set[str]:
        return imports[name].union(*(reached(one) for one in imports[name]))

    return [
        Arrow(name, imported)
        for name in sorted(shown)
        for imported in sorted(imports[name] - set().union(*(reached(one) for one in imports[name])))
    ]


# Boxes.


def _boxes_with_short_arrows(
    source: Source, layers: Sequence[Sequence[str]], arrows: Sequence[Arrow]
) -> dict[str, Rect]:
    """The boxes, each row in an order that makes the arrows short.

    The orders of all rows together are too many to be compared, so one row is improved at a time, until none gets better.
    """

    def length(boxes: Mapping[str, Rect]) -> float:
        return sum(abs(a[0] - b[0]) for points in _routes(boxes, arrows) for a, b in pairwise(points))

    lines = {
        name: len(_description(source, name, BOX_WIDTHS[len(layer) - 1]))
        for layer in layers
        for name in layer
    }
    rows = [tuple(sorted(layer)) for layer in layers]
    best = math.inf
    while (shortest := length(_boxes(rows, lines))) < best:
        best = shortest
        for number, layer in enumerate(rows):
            orders = ([*rows[:number], order, *rows[number + 1 :]] for order in permutations(sorted(layer)))
            rows = min(orders, key=lambda order: length(_boxes(order, lines)))
    return _boxes(rows, lines)


def _boxes(layers: Iterable[Sequence[str]], lines: Mapping[str, int]) -> dict[str, Rect]:
    boxes: dict[str, Rect] = {}
    y: float = MARGIN
    for layer in layers:
        width, slot = BOX_WIDTHS[len(layer) - 1], (WIDTH - 2 * MARGIN) / len(layer)
        height = 40 + LINE_HEIGHT * max(lines[name] for name in layer) + BOX_PADDING / 2
        for number, name in enumerate(layer):
            boxes[name] = Rect(MARGIN + slot * (number + 0.5) - width / 2, y, width, height)
        y += height + GAP
    return boxes


def _draw_box(picture: Picture, source: Source, name: str, rect: Rect) -> None:
    limit = rect.width - 2 * BOX_PADDING
    picture.box(rect, "component" if source.paths[name].name == "__init__.py" else "plain")
    picture.text(rect.x + BOX_PADDING, rect.y + 27, name, "title", limit=limit)
    for number, text in enumerate(_description(source, name, rect.width)):
        picture.text(rect.x + BOX_PADDING, rect.y + 50 + number * LINE_HEIGHT, text, "note", limit=limit)


def _description(source: Source, name: str, box_width: float) -> list[str]:
    """The first sentence of a package's or module's docstring, in lines."""
    text = source.summary(name).partition(". ")[0]
    return wrapped(text.rstrip(".").replace("`", ""), "note", box_width - 2 * BOX_PADDING)


def _draw_band(picture: Picture, names: Sequence[str], heading: str, y: float) -> float:
    """Draw a frame with one chip for each module; return its lower edge."""
    chips: list[tuple[str, Rect]] = []
    x: float = MARGIN + BOX_PADDING
    chip_y = y + 36
    for name in names:
        width = width_of(name, "code") + 2 * BOX_PADDING
        if x + width > WIDTH - MARGIN - BOX_PADDING:
            x, chip_y = MARGIN + BOX_PADDING, chip_y + CHIP_HEIGHT + 8
        chips.append((name, Rect(x, chip_y, width, CHIP_HEIGHT)))
        x += width + 8
    frame = Rect(MARGIN, y, WIDTH - 2 * MARGIN, chip_y + CHIP_HEIGHT + BOX_PADDING - y)
    picture.box(frame, "band")
    picture.text(MARGIN + BOX_PADDING, y + 24, heading, "heading", limit=frame.width)
    for name, rect in chips:
        picture.box(rect, "plain")
        picture.text(rect.middle, rect.centre + 5, name, "code", limit=rect.width, anchor="middle")
    return frame.bottom


# Arrows.


def _routes(boxes: Mapping[str, Rect], arrows: Sequence[Arrow]) -> list[list[Point]]:
    """The points of each arrow: from a lower edge to an upper edge, through gaps in the rows between them."""
    rows: dict[float, list[Rect]] = {}
    for rect in boxes.values():
        rows.setdefault(rect.y, []).append(rect)
    taken: dict[float, list[float]] = {}
    gaps = {arrow: _gaps(boxes[arrow.importer], boxes[arrow.imported], rows, taken) for arrow in arrows}
    routes = []
    for arrow in arrows:
        above, below = boxes[arrow.importer], boxes[arrow.imported]
        leaving = [one for one in arrows if one.importer == arrow.importer]
        leaving.sort(key=lambda one: gaps[one][0][0] if gaps[one] else boxes[one.imported].middle)
        arriving = [one for one in arrows if one.imported == arrow.imported]
        arriving.sort(key=lambda one: gaps[one][-1][0] if gaps[one] else boxes[one.importer].middle)
        start = above.x + above.width * (leaving.index(arrow) + 1) / (len(leaving) + 1)
        end = below.x + below.width * (arriving.index(arrow) + 1) / (len(arriving) + 1)
        routes.append([(start, above.bottom), *gaps[arrow], (end, below.y - 2)])
    return routes


def _gaps(
    above: Rect, below: Rect, rows: Mapping[float, Sequence[Rect]], taken: dict[float, list[float]]
) -> list[Point]:
    """Two points, at its upper and lower edge, for each row that the arrow passes. Adds their x to `taken`."""
    points = []
    for y, row in rows.items():
        if above.bottom < y < below.y:
            share = (row[0].centre - above.bottom) / (below.y - above.bottom)
            wanted = above.middle + (below.middle - above.middle) * share
            x = _free_lane(row, wanted, taken.setdefault(y, []))
            taken[y].append(x)
            points += [(x, y), (x, row[0].bottom)]
    return points


def _free_lane(row: Sequence[Rect], wanted: float, taken: Sequence[float]) -> float:
    """The x next to `wanted` that is neither in a box of `row` nor near an arrow that passes it."""
    lanes = (wanted + side * step * LANE for step in range(WIDTH // LANE) for side in (1, -1))
    return next(
        x
        for x in lanes
        if not any(rect.x - LANE < x < rect.right + LANE for rect in row)
        and not any(abs(x - other) < LANE for other in taken)
    )
