from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.services.common import ROOT
from tests.docs.commands import (
    ADAPTIVE,
    COMMANDS,
    DEAD_LETTERS,
    DEMO,
    DOCUMENTS,
    EVALUATE,
    EXPORT,
    IN_EVERY_TERMINAL,
    MANY_CARDS,
    OTHERS,
    OWN_FILE,
    README,
    README_COMMANDS,
    REPORT,
    STEPS,
    only,
)


def test_every_command_is_run_by_a_test_and_the_steps_stand_in_order() -> None:
    tested = {DEMO, OWN_FILE, ADAPTIVE, *IN_EVERY_TERMINAL}
    for starts in (STEPS, DEAD_LETTERS, MANY_CARDS, OTHERS, (EVALUATE, REPORT, EXPORT)):
        tested |= set(map(only, starts))
    assert set(COMMANDS) == tested
    places = [README_COMMANDS.index(only(step)) for step in STEPS]
    assert places == sorted(places)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)[)#]", text)
    named = re.findall(r"`((?:src|tests|examples|benchmarks|docs)/[\w/.]+)`", text)
    assert document != README or (links and named)
    for path in (*(document.parent / link for link in links), *(ROOT / name for name in named)):
        assert path.exists(), path


@pytest.mark.parametrize("readme", sorted((ROOT / "src").rglob("README.md")), ids=str)
def test_files_that_a_folders_readme_names_are_there(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)[)#]", text)
    named = re.findall(r"`(\w+(?:\.py|/))`", text)
    assert named
    for name in (*links, *named):
        assert any((folder / name).exists() for folder in (readme.parent, ROOT)), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_are_commands_or_say_that_they_are_not(document: Path) -> None:
    fences = re.findall(r"^```(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "text", "mermaid"}
    assert set(fences[1::2]) <= {""}


def test_make_targets_that_the_documents_name_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= targets
