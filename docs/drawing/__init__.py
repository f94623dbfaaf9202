"""Draws the pictures of docs/architecture.md from the code, and updates its tables: `make docs`.

`source` reads the code, `svg` draws shapes, and `packages`, `flows` and `shutdown` are the pictures.
"""

from pathlib import Path
from typing import Final

from drawing import flows, packages, shutdown
from drawing.source import Source

DOCUMENT: Final = Path(__file__).parents[1] / "architecture.md"
IMAGES: Final = Path(__file__).parents[1] / "images"


def pictures(source: Source) -> dict[str, str]:
    """File name → SVG."""
    return {
        "packages.svg": packages.draw(source),
        **{f"{name}.svg": flows.draw(source, flow) for name, flow in flows.FLOWS.items()},
        "shutdown.svg": shutdown.draw(source),
    }
