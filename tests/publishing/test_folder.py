from __future__ import annotations

import logging
from pathlib import Path

import pytest

from src.publishing.chain import CURRENT, Chain, read_current
from src.publishing.folder import NEWEST, VersionFolder
from src.publishing.rebuild import verify
from src.publishing.version_format import WEIGHTS, Manifest, PublishingError, write_version
from tests.publishing.made import delta_contents, full_contents, make_manifest, write_chain


@pytest.fixture
def folder(tmp_path: Path) -> VersionFolder:
    return VersionFolder(tmp_path)


def names_of(manifests: list[Manifest]) -> list[str]:
    return [manifest.name for manifest in manifests]


def continued(folder: VersionFolder, chain: list[Manifest], step: int) -> list[Manifest]:
    """The chain with one more delta, which the trainer has published."""
    delta = write_version(folder.directory, make_manifest(step, chain[-1]), delta_contents(step))
    folder.advance(names_of([*chain, delta]))
    return [*chain, delta]


def current(folder: VersionFolder) -> Chain:
    chain = read_current(folder.directory)
    assert chain is not None
    return chain


# --- the trainer


def test_one_trainer_at_a_time(folder: VersionFolder) -> None:
    folder.open()
    other = VersionFolder(folder.directory)
    with pytest.raises(PublishingError, match="another trainer publishes to"):
        other.open()
    folder.close()
    other.open()
    other.close()


def test_a_folder_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishingError, match="file"):
        VersionFolder(tmp_path / "file").open()


def test_what_a_crash_left_is_removed_at_the_start(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    for name in (".writing-40-0123abcd", ".removing-5-0123abcd"):
        (folder.directory / name).mkdir()
        (folder.directory / name / WEIGHTS).touch()
    folder.open()
    folder.close()
    kept = {path.name for path in folder.directory.iterdir() if path.is_dir()}
    assert kept == set(names_of(chain))


def test_old_chains_go_when_newer_full_versions_are_there(folder: VersionFolder) -> None:
    chains = [write_chain(folder.directory, steps) for steps in ((1, 2), (3, 4, 5), (6,))]
    folder.remove_old(keep=2)
    assert [found.name for found in folder.versions()] == names_of(chains[1] + chains[2])
    folder.remove_old(keep=1)
    assert [found.name for found in folder.versions()] == names_of(chains[2])
    folder.remove_old(keep=1)
    assert [found.name for found in folder.versions()] == names_of(chains[2])


def test_a_chain_that_current_names_is_never_removed(folder: VersionFolder) -> None:
    chains = [write_chain(folder.directory, steps) for steps in ((1, 2, 3), (4,), (5,), (6,))]
    folder.roll_back("2")
    folder.remove_old(keep=1)
    left = [found.name for found in folder.versions()]
    assert left == names_of(chains[0] + chains[3]), "also the newest: resume goes there"
    folder.resume()
    folder.remove_old(keep=1)
    assert [found.name for found in folder.versions()] == names_of(chains[3])


def test_the_last_version_published_is_known_after_a_restart(folder: VersionFolder) -> None:
    assert folder.newest() is None
    chain = write_chain(folder.directory)
    assert folder.newest() == chain[-1]
    folder.roll_back("10")
    assert folder.newest() == chain[-1]


def test_a_damaged_current_is_written_anew(
    folder: VersionFolder, caplog: pytest.LogCaptureFixture
) -> None:
    chain = write_chain(folder.directory)
    (folder.directory / CURRENT).write_bytes(b"{")
    assert folder.newest() is None
    continued(folder, chain, 40)
    assert current(folder).names[-1] == "40-0123abcd"
    assert "current.json is damaged" in caplog.text


# --- the operator


def test_a_rollback_stays_until_it_is_resumed(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    assert folder.roll_back("20") == chain[1]
    pinned = current(folder)
    assert pinned == Chain(("10-0123abcd", "20-0123abcd"), pinned=True)
    chain = continued(folder, chain, 40)
    chain = continued(folder, chain, 50)
    assert current(folder) == pinned, "the trainer publishes on, and nobody is served that"
    folder.roll_back("10")
    assert current(folder) == Chain(("10-0123abcd",), pinned=True)
    assert folder.resume() == chain[-1]
    assert current(folder) == Chain(tuple(names_of(chain)))
    assert not (folder.directory / NEWEST).exists()
    assert folder.resume() is None
    chain = continued(folder, chain, 60)
    assert current(folder) == Chain(tuple(names_of(chain)))


def test_a_rollback_without_a_trainer_is_resumed_to_where_it_was(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    before = current(folder)
    folder.roll_back("10-0123abcd")
    folder.roll_back("20-0123abcd")
    assert folder.resume() == chain[-1]
    assert current(folder) == before


def test_a_rollback_to_the_newest_pins_it(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    folder.roll_back("30")
    continued(folder, chain, 40)
    assert current(folder).names[-1] == "30-0123abcd"


def test_a_rollback_to_what_is_not_there_or_not_whole_is_refused(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    before = (folder.directory / CURRENT).read_bytes()
    with pytest.raises(PublishingError, match="has no version 25 that can be read"):
        folder.roll_back("25")
    path = folder.directory / chain[0].name / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PublishingError, match=f"{chain[0].name}/{WEIGHTS} has checksum"):
        folder.roll_back("20")
    assert (folder.directory / CURRENT).read_bytes() == before
    assert not (folder.directory / NEWEST).exists()


def test_a_step_that_two_runs_have_published_is_asked_back(folder: VersionFolder) -> None:
    write_chain(folder.directory, (10,))
    write_version(folder.directory, make_manifest(10, run="ffffffff"), full_contents())
    with pytest.raises(PublishingError, match="give one of 10-.{8}, 10-.{8}"):
        folder.roll_back("10")
    assert folder.roll_back("10-ffffffff").name == "10-ffffffff"


def test_a_damaged_manifest_is_listed_with_its_fault(folder: VersionFolder) -> None:
    write_chain(folder.directory)
    (folder.directory / "20-0123abcd" / "manifest.json").write_bytes(b"")
    first, *others = folder.versions()
    assert first.name == "20-0123abcd" and first.manifest is None
    assert "manifest.json is damaged" in first.fault
    assert [found.name for found in others] == ["10-0123abcd", "30-0123abcd"]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    folder = VersionFolder(tmp_path / "none")
    for action in (folder.versions, folder.resume, lambda: folder.roll_back("1")):
        with pytest.raises(PublishingError, match="none"):
            action()


# --- verify


def faults(folder: VersionFolder) -> dict[str, str]:
    manifests = [found.manifest for found in folder.versions() if found.manifest]
    found = list(verify(folder.directory, manifests))
    assert len(found) == len(manifests), "each version once"
    return {manifest.name: fault for manifest, fault in found}


def test_whole_chains_have_no_fault(folder: VersionFolder) -> None:
    write_chain(folder.directory)
    write_chain(folder.directory, (40, 50))
    assert set(faults(folder).values()) == {""}


def test_a_fault_is_named_at_its_version_and_at_those_after_it(folder: VersionFolder) -> None:
    write_chain(folder.directory, (10, 20, 30, 35))
    write_chain(folder.directory, (40, 50))
    path = folder.directory / "20-0123abcd" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    found = faults(folder)
    assert "20-0123abcd/weights.safetensors has" in found.pop("20-0123abcd")
    assert found == {
        "10-0123abcd": "",
        "30-0123abcd": "version 20-0123abcd before it is broken",
        "35-0123abcd": "version 30-0123abcd before it is broken",
        "40-0123abcd": "",
        "50-0123abcd": "",
    }


def test_a_missing_link_is_a_fault(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    folder.discard(chain[1].name)
    found = faults(folder)
    assert found["10-0123abcd"] == ""
    assert "can't follow nothing" in found["30-0123abcd"]


def test_branches_are_rebuilt_apart(folder: VersionFolder) -> None:
    chain = write_chain(folder.directory)
    for step in (40, 41, 42):
        write_version(folder.directory, make_manifest(step, chain[0]), delta_contents(step))
    assert set(faults(folder).values()) == {""}


def test_reading_needs_no_lock(folder: VersionFolder, caplog: pytest.LogCaptureFixture) -> None:
    write_chain(folder.directory)
    with folder._locked(), caplog.at_level(logging.WARNING):
        assert len(folder.versions()) == 3 and len(current(folder).names) == 3
