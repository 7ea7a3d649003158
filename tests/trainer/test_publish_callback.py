"""Publishing by a real training run: every version is the trainer's model of its step."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src.dictionaries.dictionaries import save_dictionaries
from src.dictionaries.oov import UnknownValues
from src.process.arrays import Array
from src.publishing.chain import read_chain, read_current
from src.publishing.folder import VersionFolder
from src.publishing.publisher import Moment, Publisher
from src.publishing.rebuild import Entries, Rebuilt, verify
from src.publishing.version_format import Manifest, PublishingError, read_contents
from src.rows.criteo import CATEGORICAL_SIZE, DENSE_SIZE
from src.stream.position import Commit, Position
from tests.features.made import make_dictionaries
from tests.trainer.memory_topic import BATCH, ROWS, MemoryTopic, run

VOCAB_SIZE = 400
FOLDER = Path("versions")
ADAPTIVE = (
    f"--vocab_size={VOCAB_SIZE}",
    "--sparse",
    "--table_optimizer=adagrad",
    "--deep_pairs",
    "--cross_bits=12",
    "--admit_count=1",
    "--expire_rows=100",
    "--wide_init=zeros",
    "--cross_learning_rate=1e-4",
    "--save_checkpoint_steps=4",
)
PUBLISHING = (
    f"--publish_path={FOLDER}",
    "--publish_seconds=1e-9",
    "--publish_full_every=5",
    "--publish_keep=100",
    "--publish_tolerance=1",
)
State = tuple[dict[str, Array], Entries]


@pytest.fixture
def growing(topic: MemoryTopic) -> MemoryTopic:
    """Rows whose values come and go, so that ids are given, freed and given to others."""
    dictionaries = make_dictionaries()
    save_dictionaries(
        dictionaries, "all_val_max_dict.pkl", "all_val_min_dict.pkl", "cat2id_dict.pkl"
    )
    random = np.random.default_rng(7)
    topic.ids[:] = np.arange(DENSE_SIZE + CATEGORICAL_SIZE)
    age = np.arange(ROWS)[:, None] // 60  # a value is in about 120 rows
    drawn = age + random.integers(0, 2, (ROWS, CATEGORICAL_SIZE))
    values = np.char.add(b"v", drawn.astype("S"))
    topic.labels = (drawn[:, 0] % 2).astype(np.float32)
    topic.oov[:] = 2**CATEGORICAL_SIZE - 1
    topic.unknown = UnknownValues(values.astype("S8"), (39, VOCAB_SIZE))
    topic.dictionaries = dictionaries.fingerprint
    topic.with_keys = True
    return topic


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[int, State]:
    """The trainer's weights and vocabulary at each step for which a version was published."""
    seen: dict[int, State] = {}
    publish = Publisher.publish

    def publish_and_note(publisher: Publisher, moment: Moment) -> None:
        publish(publisher, moment)
        publisher.wait()  # so that each step has a version
        collector = publisher._collector
        entries = collector._growth.entries() if collector._growth else ((), (), ())
        ids, fields, values = (list(column) for column in entries)
        seen[moment.step] = (
            {name: array.copy() for name, array in collector._weights().items()},
            {int(i): (int(column), value) for i, column, value in zip(ids, fields, values)},
        )

    monkeypatch.setattr(Publisher, "publish", publish_and_note)
    return seen


def manifests() -> list[Manifest]:
    return [found.manifest for found in VersionFolder(FOLDER).versions() if found.manifest]


def rebuilt(manifest: Manifest, by_name: dict[str, Manifest]) -> Rebuilt:
    chain = [manifest]
    while chain[0].previous is not None:
        chain.insert(0, by_name[chain[0].previous])
    version = Rebuilt()
    for link in chain:
        version.apply(link, read_contents(FOLDER, link))
    return version


def check_all_versions(states: dict[int, State]) -> list[Manifest]:
    """Every version, rebuilt from its chain, is bit by bit what the trainer had."""
    found = manifests()
    by_name = {manifest.name: manifest for manifest in found}
    for manifest in found:
        version = rebuilt(manifest, by_name)
        arrays, entries = states[manifest.version]
        assert version.arrays.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(version.arrays[name], array, err_msg=name)
        assert version.entries == entries
        assert manifest.position.offsets == {0: manifest.version * BATCH}
        assert manifest.trained_until_ms == 10**12 + manifest.version * BATCH - 1
    assert [fault for _, fault in verify(FOLDER, found) if fault] == []
    return found


def test_every_version_is_the_trainers_model_and_publishing_changes_nothing(
    growing: MemoryTopic, states: dict[int, State]
) -> None:
    run(9, *ADAPTIVE, *PUBLISHING)
    run(11, *ADAPTIVE, *PUBLISHING)
    found = check_all_versions(states)
    assert [manifest.version for manifest in found] == list(range(1, 21))
    full = [manifest.version for manifest in found if manifest.kind == "full"]
    assert full == [1, 6, 10, 15, 20], "every fifth, and the first of each run"
    owners: dict[int, set[tuple[int, bytes]]] = {}
    for _, entries in states.values():
        for number, value in entries.items():
            owners.setdefault(number, set()).add(value)
    assert max(map(len, owners.values())) > 1, "ids went to other values"
    chain = read_current(FOLDER)
    assert chain is not None
    assert read_chain(FOLDER, chain)[-1].version == 20
    growing.commit = Commit(Position({0: 0}), 0)
    run(20, *ADAPTIVE, "--ckpt_path=alone")
    alone = ms.load_checkpoint("alone/widedeep_train-1_20.ckpt")
    for name, array in states[20][0].items():
        np.testing.assert_array_equal(alone[name].asnumpy(), array, err_msg=name)


def test_without_sparse_every_version_is_full(
    topic: MemoryTopic, states: dict[int, State], caplog: pytest.LogCaptureFixture
) -> None:
    dictionaries = make_dictionaries()
    save_dictionaries(
        dictionaries, "all_val_max_dict.pkl", "all_val_min_dict.pkl", "cat2id_dict.pkl"
    )
    topic.dictionaries = dictionaries.fingerprint
    with caplog.at_level(logging.INFO):
        run(4, *PUBLISHING, "--publish_seconds=0")
    assert "publishing a full version every 60 s: without sparse" in caplog.text
    found = check_all_versions(states)
    assert [manifest.version for manifest in found] == [1, 4], "the first step and the stop"
    assert {manifest.kind for manifest in found} == {"full"}


def test_messages_from_the_future_make_no_version_fresher_than_it_is(growing: MemoryTopic) -> None:
    growing.first_timestamp = 4 * 10**12  # the year 2096
    run(2, *ADAPTIVE, *PUBLISHING)
    assert manifests()[-1].trained_until_ms <= time.time() * 1000


def test_other_dictionaries_than_the_consumers_are_refused(growing: MemoryTopic) -> None:
    growing.dictionaries += 1
    with pytest.raises(PublishingError, match="the trainer needs the consumer's --max_dict"):
        run(4, *ADAPTIVE, *PUBLISHING)
    assert manifests() == []


def test_a_second_trainer_can_t_publish_to_the_same_folder(growing: MemoryTopic) -> None:
    other = VersionFolder(FOLDER)
    other.open()
    with pytest.raises(PublishingError, match="another trainer publishes to versions"):
        run(4, *ADAPTIVE, *PUBLISHING)
    other.close()


def test_what_the_last_rows_taught_is_published_while_no_rows_come(growing: MemoryTopic) -> None:
    run(1000, *ADAPTIVE, *PUBLISHING, "--publish_seconds=0.7", "--idle_seconds=6")
    ended = time.time()
    newest = max(manifests(), key=lambda manifest: manifest.version)
    assert newest.version == ROWS // BATCH
    assert newest.published_ms / 1000 < ended - 2, "long before the stop, which publishes too"
