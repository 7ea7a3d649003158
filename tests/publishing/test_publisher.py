"""The publisher with arrays in memory: what it writes, when it can't, and when it should not."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from src.publishing import publisher as publisher_module
from src.publishing.chain import CURRENT, read_chain, read_current
from src.publishing.changes import ChangeCollector, NotedRows
from src.publishing.folder import VersionFolder
from src.publishing.numbers import PublishingNumbers
from src.publishing.publisher import Moment, Publisher, PublishingSettings
from src.publishing.rebuild import Rebuilt
from src.publishing.version_format import (
    Contents,
    DictionaryTables,
    Manifest,
    PublishingError,
    read_contents,
    write_version,
)
from src.stream.position import Position
from tests.features.made import make_dictionaries
from tests.publishing.made import MODEL, VOCAB_SIZE, make_arrays

CLICKS = np.array([True, False, False, True] * 25)
LOGITS = np.where(CLICKS, 0.5, -0.5).astype(np.float32)


class Run:
    """A trainer without training: each step moves a row."""

    def __init__(self, directory: Path, full_every: int = 4, keep: int = 2) -> None:
        self.directory = directory
        self.arrays = make_arrays()
        dictionaries = DictionaryTables.of(make_dictionaries())
        self.collector = ChangeCollector(
            lambda: self.arrays, NotedRows(VOCAB_SIZE), {}, None, dictionaries
        )
        self.registry = CollectorRegistry()
        self.folder = VersionFolder(directory)
        self.folder.open()
        settings = PublishingSettings(1.0, full_every, keep, 0.02, "clicks", MODEL)
        numbers = PublishingNumbers(self.registry)
        self.publisher = Publisher(self.folder, settings, self.collector, numbers)
        self.step_number = 0
        self.logits = LOGITS

    def step(self) -> None:
        self.step_number += 1
        row = self.step_number % VOCAB_SIZE
        self.arrays["embedding_table"][row] += 1
        self.arrays["wide_bias"] += 1
        self.collector.note(np.array([row]), None)

    def publish(self) -> None:
        self.step()
        position = Position({0: self.step_number})
        moment = Moment(self.step_number, position, 5, 7, (self.logits, CLICKS))
        self.publisher.publish(moment)

    def published(self) -> None:
        self.publish()
        self.publisher.wait()

    def served(self) -> list[Manifest]:
        chain = read_current(self.directory)
        return [] if chain is None else read_chain(self.directory, chain)

    def check_served(self, step: int) -> list[Manifest]:
        """What is served is the model of this step, the last one."""
        chain = self.served()
        version = Rebuilt()
        for manifest in chain:
            version.apply(manifest, read_contents(self.directory, manifest))
        for name, array in self.arrays.items():
            np.testing.assert_array_equal(version.arrays[name], array, err_msg=name)
        assert chain[-1].version == step
        return chain

    def number(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"online_train_{name}", labels)

    def close(self) -> None:
        self.publisher.close()
        self.folder.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "versions")
    yield made
    made.close()


def test_fulls_and_deltas_follow_one_another(run: Run) -> None:
    kinds = []
    for step in range(1, 10):
        run.published()
        kinds.append(run.check_served(step)[-1].kind)
    assert kinds == ["full", "delta", "delta", "delta"] * 2 + ["full"]
    assert [found.manifest.version for found in run.folder.versions() if found.manifest] == [
        *range(5, 10)
    ], "two chains are kept"
    assert run.number("versions_published_total", kind="full") == 3
    assert run.number("versions_published_total", kind="delta") == 6
    assert run.number("version_step") == 9


def test_a_manifest_says_what_the_version_is(run: Run) -> None:
    run.published()
    (manifest,) = run.served()
    assert manifest.topic == "clicks" and manifest.position == Position({0: 1})
    assert (manifest.trained_until_ms, manifest.dictionaries) == (5, f"{7:016x}")
    assert manifest.model == MODEL and manifest.progressive["rows"] == 100
    assert manifest.published_ms > 1_700_000_000_000


def test_training_goes_on_while_a_version_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(directory: Path, manifest: Manifest, contents: Contents) -> Manifest:
        assert go_on.wait(10)
        return write_version(directory, manifest, contents)

    monkeypatch.setattr(publisher_module, "write_version", slow)
    run.publish()
    bias = run.arrays["wide_bias"].copy()
    assert run.publisher.is_writing
    run.step()
    go_on.set()
    run.publisher.wait()
    assert not run.publisher.is_writing
    np.testing.assert_array_equal(
        read_contents(run.directory, run.served()[0]).whole["wide_bias"], bias
    )


@pytest.mark.parametrize("part", ["write_version", "advance"])
def test_what_a_failed_write_has_lost_is_in_the_next_version(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    owner = publisher_module if part == "write_version" else VersionFolder

    def fail(*_: object) -> None:
        raise PublishingError("no room")

    run.published()
    run.published()
    with monkeypatch.context() as broken:
        broken.setattr(owner, part, fail)
        run.published()
        run.published()
        assert run.served()[-1].version == 2
    run.published()
    chain = run.check_served(5)
    assert [manifest.version for manifest in chain] == [1, 2, 5]
    assert len(run.folder.versions()) == 3, "nothing is left of those that failed"
    assert caplog.text.count("no room") == 1
    assert run.number("versions_failed_total") == 2


def test_a_full_version_that_failed_is_tried_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run.directory.rename(run.directory.with_name("moved"))
    run.published()
    assert "can't write version" in caplog.text
    run.directory.with_name("moved").rename(run.directory)
    run.published()
    assert [manifest.kind for manifest in run.check_served(2)] == ["full"]


def test_a_folder_that_somebody_emptied_gets_a_full_version(run: Run) -> None:
    run.published()
    run.published()
    for path in run.directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.published()
    assert [manifest.kind for manifest in run.check_served(3)] == ["full"]


def test_a_bad_version_is_refused_once_said_and_counted(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run.published()
    before = (run.directory / CURRENT).read_bytes()
    run.logits = -LOGITS  # as bad as it was good
    for _ in range(3):
        run.published()
    assert (run.directory / CURRENT).read_bytes() == before
    assert caplog.text.count("is not published: log loss") == 1
    run.logits = LOGITS - 5
    run.published()
    assert caplog.text.count("is not published") == 2, "another cause is said too"
    assert "clicks predicted per click" in caplog.text
    run.logits = LOGITS
    run.published()
    chain = run.check_served(6)
    assert [manifest.version for manifest in chain] == [1, 6], "with all that was refused"
    assert "version 6-" in caplog.text
    assert run.number("versions_refused_total", cause="log_loss") == 3
    assert run.number("versions_refused_total", cause="calibration") == 1
    assert run.number("versions_refused_total", cause="weights") == 0


def test_weights_that_are_not_finite_are_never_published(run: Run) -> None:
    run.published()
    run.arrays["embedding_table"][2] = np.nan  # the row of step 2
    run.published()
    assert run.served()[-1].version == 1
    assert run.number("versions_refused_total", cause="weights") == 1
    run.arrays["embedding_table"][2] = 0
    run.published()
    run.check_served(3)


def test_a_restart_begins_with_a_full_version_and_keeps_the_gate(run: Run) -> None:
    run.published()
    run.published()
    run.close()
    again = Run(run.directory)
    again.logits = -LOGITS
    again.published()
    assert again.served()[-1].version == 2
    again.logits = LOGITS
    again.published()
    chain = again.check_served(2)
    assert len(chain) == 1 and chain[0].kind == "full"
    steps = [found.manifest.version for found in run.folder.versions() if found.manifest]
    assert steps == [1, 2, 2], "the same step twice, in folders of their own"
    again.close()


def test_a_rollback_holds_while_versions_go_on(run: Run) -> None:
    for _ in range(3):
        run.published()
    VersionFolder(run.directory).roll_back("2")
    for _ in range(6):
        run.published()
    assert [manifest.version for manifest in run.served()] == [1, 2]
    VersionFolder(run.directory).resume()
    run.check_served(9)
    run.published()
    run.check_served(10)
