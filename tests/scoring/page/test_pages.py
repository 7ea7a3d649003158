"""The page is whole: what its files name is there, and it needs nothing from elsewhere."""

from __future__ import annotations

import re

from src.scoring.page.pages import pages
from src.scoring.web.routes import find_route


def text(path: str) -> str:
    return pages()[path].body.decode()


def test_files_that_the_page_names_are_served() -> None:
    named = re.findall(r'(?:href|src)="([^"]+)"', text("/"))
    assert {"page.css", "page.js"} <= set(named)
    assert all(f"/{name}" in pages() for name in named if not name.startswith("data:"))


def test_nothing_comes_from_another_host() -> None:
    for path in pages():
        assert "//" not in re.sub(r"^\s*//.*$", "", text(path), flags=re.MULTILINE), path


def test_the_script_asks_for_paths_that_the_service_has() -> None:
    asked = re.findall(r"answer\([\"`]([^\"`]+)[\"`]", text("/page.js"))
    assert len(asked) == 2
    for path in asked:
        assert find_route("/" + path.replace("${model}", "widedeep")) is not None


def test_the_script_writes_into_elements_that_are_there() -> None:
    written = set(re.findall(r'(?:say|byId)\("([a-z-]+)"', text("/page.js")))
    there = set(re.findall(r'id="([a-z-]+)"', text("/")))
    assert written and written <= there
