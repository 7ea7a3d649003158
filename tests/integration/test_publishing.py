"""Versions published by the real scripts, through a kill and a rollback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from examples.demo.script import Script
from examples.services.common import wait_until
from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.checkpoints.parts import load
from src.checkpoints.unit import newest_unit
from src.publishing.chain import CURRENT, read_chain, read_current
from src.publishing.folder import VersionFolder
from src.publishing.rebuild import rebuild, verify
from src.publishing.version_format import DELTA, FULL, Manifest
from tests.integration.pipeline import (
    BATCH_SIZE,
    LONG,
    DictionaryFiles,
    Pipeline,
    assert_ends,
    assert_stops,
    growing_flags,
    sample_files,
)
from tests.integration.ranks import START_SECONDS

pytestmark = pytest.mark.slow

ROWS = 20_000
PUBLISHING = (
    "--sparse",
    "--expire_rows=300",
    "--publish_path=versions",
    "--publish_seconds=0.05",
    "--publish_full_every=4",
    "--publish_tolerance=9",
    "--save_checkpoint_steps=20",
)


@pytest.fixture
def pipeline(
    tmp_path: Path, kafka_service: KafkaService, engine: EngineService
) -> Iterator[Pipeline]:
    dictionaries = DictionaryFiles.make(tmp_path)
    with Pipeline(tmp_path, kafka_service.bootstrap_servers, dictionaries, 2) as made:
        yield made


def served(folder: Path) -> list[Manifest]:
    chain = read_current(folder)
    return [] if chain is None else read_chain(folder, chain)


def await_version(folder: Path, trainer: Script, after: int, is_delta: bool = True) -> Manifest:
    """Waits until a version of a later step is served, and returns it."""

    def is_there() -> bool:
        chain = served(folder)
        return (
            bool(chain) and chain[-1].version > after and (chain[-1].kind == DELTA or not is_delta)
        )

    assert wait_until(lambda: is_there() or trainer.code is not None, LONG, 0.02), trainer.log()
    assert trainer.code is None, trainer.log()
    return served(folder)[-1]


def test_versions_go_on_through_a_kill_and_a_rollback_and_each_can_be_rebuilt(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    growing = growing_flags(pipeline.dictionaries)
    flags = (*growing, *PUBLISHING)  # the dictionaries have their default names here
    assert_ends(pipeline.producer(sample_files(tmp_path, ROWS, 2)))
    pipeline.consumer("--window_size=300", *growing)
    folder = tmp_path / "versions"

    trainer = pipeline.trainer(*flags)
    killed_at = await_version(folder, trainer, after=25)
    os.killpg(trainer.process.pid, signal.SIGKILL)
    trainer.wait(LONG)
    chain = served(folder)
    assert chain[-1].version >= killed_at.version and chain[-1].topic == pipeline.topic
    (folder / ".writing-99-0123abcd").mkdir(exist_ok=True)

    pinned = VersionFolder(folder).roll_back(chain[0].name)
    trainer = pipeline.trainer(*flags)
    assert wait_until(lambda: (folder / "newest.json").exists(), LONG, 0.02), trainer.log()
    before = (folder / CURRENT).read_bytes()
    assert served(folder) == [pinned]
    VersionFolder(folder).resume()
    assert (folder / CURRENT).read_bytes() != before
    await_version(folder, trainer, after=killed_at.version)
    assert_stops(trainer, signal.SIGTERM, 10.0)

    found = check_versions(tmp_path)
    assert len(found) >= 3
    assert list(folder.glob(".writing-*")) == []


@pytest.mark.ranks
@pytest.mark.timeout(600)
def test_rank_0_publishes_what_the_rows_of_all_ranks_have_moved(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    crosses = ("--cross_bits=14",)
    assert_ends(pipeline.producer(sample_files(tmp_path, 4_000, 2)))
    pipeline.consumer("--window_size=300", "--num_shards=2", *crosses)
    flags = (*crosses, *PUBLISHING, "--device_target=CPU", "--max_steps=30")
    assert_ends(pipeline.ranks("network", 2, *flags), START_SECONDS)
    found = check_versions(tmp_path, ranks=2)
    assert {manifest.kind for manifest in found} == {FULL, DELTA}


def check_versions(folder: Path, ranks: int = 1) -> list[Manifest]:
    """The last version holds the last checkpoint's weights; all versions can be rebuilt."""
    versions = folder / "versions"
    last = served(versions)[-1]
    unit = newest_unit(folder / "ckpt", "widedeep_train")
    assert unit is not None
    assert (last.version, last.position) == (unit.step, unit.position)
    assert sum(last.position.offsets.values()) == last.version * BATCH_SIZE * ranks
    assert last.trained_until_ms > 1_600_000_000_000
    saved = load(unit)
    arrays = rebuild(versions, [link.name for link in served(versions)]).arrays
    assert "cross_weight" in arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, saved[name], err_msg=name)
    found = [version.manifest for version in VersionFolder(versions).versions() if version.manifest]
    assert [fault for _, fault in verify(versions, found) if fault] == []
    return found
