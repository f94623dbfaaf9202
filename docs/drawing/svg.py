"""SVG with a few shapes, in colours for light and dark mode. Refuses text that does not fit or that overlaps."""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

_SANS: Final = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
_MONO: Final = (
    "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
)

# Kind of box → (fill, stroke) in light mode, (fill, stroke) in dark mode.
_KINDS: Final = {
    "component": (("#ddf4ff", "#0969da"), ("#0d2136", "#4493f8")),
    "pure": (("#fbefff", "#8250df"), ("#21163a", "#ab7df8")),
    "disk": (("#fff8c5", "#9a6700"), ("#2b2410", "#d29922")),
    "world": (("#dafbe1", "#1a7f37"), ("#0f2a18", "#3fb950")),
    "interface": (("#ffffff", "#0969da"), ("#0d1117", "#4493f8")),
    "plain": (("#f6f8fa", "#8c959f"), ("#151b23", "#656c76")),
    "band": (("#f6f8fa", "#d1d9e0"), ("#11161d", "#2a313a")),
}
# Style of text → size in pixels, font, weight.
_STYLES: Final = {
    "title": (17, _SANS, 600),
    "heading": (14, _SANS, 600),
    "code": (14, _MONO, 400),
    "strong": (14, _MONO, 700),
    "path": (13, _MONO, 400),
    "label": (13, _MONO, 400),
    "note": (14, _SANS, 400),
}
# Widths of characters as a share of the size, those of DejaVu Sans, a wide font.
_MONO_WIDTH: Final = 0.61
_SANS_WIDTHS: Final = {0.3: "ijlI|.,:;'", 0.42: 'frt()-/" ', 0.82: "mwMW@%", 0.7: "ABCDEGHKNOQRUVXY&"}
_OTHER_WIDTH: Final = 0.62
_BOLD: Final = 1.12
_LIGHT: Final = {"page": "#ffffff", "text": "#1f2328", "muted": "#59636e", "line": "#59636e"}
_DARK: Final = {"page": "#0d1117", "text": "#f0f6fc", "muted": "#a3acb6", "line": "#9198a1"}
_MUTED: Final = ("path", "note")


class DrawingError(Exception):
    """A picture would not be readable: a text has too little space, or two texts overlap."""


class Rect(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def centre(self) -> float:
        return self.y + self.height / 2

    def overlaps(self, other: "Rect") -> bool:
        return (
            self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom
        )

    def contains(self, other: "Rect") -> bool:
        return (
            self.x <= other.x
            and other.right <= self.right
            and self.y <= other.y
            and other.bottom <= self.bottom
        )


def width_of(text: str, style: str) -> float:
    """An estimate of the width of `text`, on the large side, because the viewer's fonts are not known."""
    size, font, weight = _STYLES[style]
    if font is _MONO:
        return len(text) * size * _MONO_WIDTH
    shares = (
        next((share for share, characters in _SANS_WIDTHS.items() if character in characters), _OTHER_WIDTH)
        for character in text
    )
    return sum(shares) * size * (_BOLD if weight > 400 else 1)


def wrapped(text: str, style: str, limit: float) -> list[str]:
    """`text` in lines of at most `limit` pixels."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if width_of(joined, style) > limit and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


class Picture:
    """Collects shapes; `svg` renders them. Coordinates are pixels, at most `width` to the right."""

    def __init__(self, width: int, title: str, description: str) -> None:
        self.width = width
        self._title = title
        self._description = description
        self._shapes: list[str] = []
        self._texts: list[tuple[str, Rect]] = []
        self._boxes: list[Rect] = []

    def box(self, rect: Rect, kind: str, *, dashed: bool = False) -> None:
        classes = f"{kind} dashed" if dashed else kind
        self._boxes.append(rect)
        self._shapes.append(
            f'<rect class="{classes}" x="{rect.x:g}" y="{rect.y:g}" width="{rect.width:g}"'
            f' height="{rect.height:g}" rx="8"/>'
        )

    def text(self, x: float, y: float, text: str, style: str, *, limit: float, anchor: str = "start") -> None:
        """`y` is the baseline; "" draws nothing. Raises `DrawingError` if `text` takes more than `limit` pixels."""
        if not text:
            return
        width, size = width_of(text, style), _STYLES[style][0]
        if width > limit:
            raise DrawingError(f"{text!r} takes {width:.0f} pixels and has {limit:.0f}; make the box wider")
        left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
        self._texts.append((text, Rect(left, y - size * 0.8, width, size)))
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._shapes.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}"{at}>{escape(text, quote=False)}</text>'
        )

    def badge(self, x: float, y: float, number: str) -> None:
        """A number in a circle around (x, y)."""
        self._shapes.append(f'<circle class="badge" cx="{x:g}" cy="{y:g}" r="12"/>')
        self._shapes.append(
            f'<text class="number" x="{x:g}" y="{y + 5:g}" text-anchor="middle">{number}</text>'
        )

    def arrow(self, points: Sequence[tuple[float, float]]) -> None:
        """A line with a head at its end: straight through two points, curved through more."""
        (x, y), rest = points[0], points[1:]
        path = f"M{x:g} {y:g}"
        for next_x, next_y in rest:
            if x == next_x or y == next_y:
                path += f"L{next_x:g} {next_y:g}"
            else:
                bend = (next_y - y) / 2
                path += f"C{x:g} {y + bend:g} {next_x:g} {next_y - bend:g} {next_x:g} {next_y:g}"
            x, y = next_x, next_y
        self._shapes.append(f'<path class="arrow" d="{path}" marker-end="url(#head)"/>')

    def svg(self, height: float) -> str:
        """Raises `DrawingError` if a text or a box overlaps another or lies outside."""
        self._check(Rect(0, 0, self.width, height))
        size = f'width="{self.width}" height="{height:g}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height:g}" {size} role="img">',
            f"<title>{escape(self._title)}</title>",
            f"<desc>{escape(self._description)}</desc>",
            f"<style>\n{_style()}\n</style>",
            '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">',
            '<path class="head" d="M0 0L10 5L0 10z"/></marker>',
            f'<rect class="page" {size} rx="10"/>',
            *self._shapes,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _check(self, page: Rect) -> None:
        for number, (text, rect) in enumerate(self._texts):
            if not page.contains(rect):
                raise DrawingError(f"{text!r} lies outside of the picture")
            for other_text, other_rect in self._texts[:number]:
                if rect.overlaps(other_rect):
                    raise DrawingError(f"{text!r} overlaps {other_text!r}")
            for box in self._boxes:
                if rect.overlaps(box) and not box.contains(rect):
                    raise DrawingError(f"{text!r} crosses the border of a box")
        for number, box in enumerate(self._boxes):
            for other in self._boxes[:number]:
                if box.overlaps(other) and not (box.contains(other) or other.contains(box)):
                    raise DrawingError(f"two boxes overlap: {box} and {other}")


def _style() -> str:
    lines = [
        f".{name} {{ font: {weight} {size}px {font}; }}" for name, (size, font, weight) in _STYLES.items()
    ]
    lines.append(f".number {{ font: 600 14px {_SANS}; }}")
    lines.append("rect { stroke-width: 1.5; } .dashed { stroke-dasharray: 6 4; }")
    lines.append(".arrow { fill: none; stroke-width: 1.75; }")
    lines += _colours(_LIGHT, 0)
    lines += ["@media (prefers-color-scheme: dark) {", *_colours(_DARK, 1), "}"]
    return "\n".join(lines)


def _colours(palette: dict[str, str], mode: int) -> list[str]:
    muted = ", ".join(f".{name}" for name in _MUTED)
    return [
        f".page {{ fill: {palette['page']}; }}",
        f"text {{ fill: {palette['text']}; }} {muted} {{ fill: {palette['muted']}; }}",
        f".arrow {{ stroke: {palette['line']}; }} .head {{ fill: {palette['line']}; }}",
        f".badge {{ fill: {palette['text']}; }} .number {{ fill: {palette['page']}; }}",
        *(
            f".{kind} {{ fill: {modes[mode][0]}; stroke: {modes[mode][1]}; }}"
            for kind, modes in _KINDS.items()
        ),
    ]
