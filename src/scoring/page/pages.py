"""The files of the page, as answers."""

from __future__ import annotations

from pathlib import Path

from src.scoring.web.responses import Response

HERE = Path(__file__).parent
_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}


def pages() -> dict[str, Response]:
    """What is answered to the paths of the page."""
    return {
        path: Response(200, (HERE / name).read_bytes(), kind)
        for path, (name, kind) in _FILES.items()
    }
