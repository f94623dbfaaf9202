"""Writes docs/images/*.svg and the tables of docs/architecture.md: `make docs`."""

import sys

from drawing import DOCUMENT, IMAGES, pictures
from drawing.source import Source, SourceError
from drawing.svg import DrawingError
from drawing.tables import updated


def main() -> None:
    source = Source()
    drawn = pictures(source)
    text = updated(DOCUMENT.read_text("utf-8"), source)
    IMAGES.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (IMAGES / name).write_text(svg, "utf-8")
    DOCUMENT.write_text(text, "utf-8")


try:
    main()
except (SourceError, DrawingError) as exc:
    sys.exit(f"Cannot draw: {exc}")
