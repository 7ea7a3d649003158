"""A score served from version s is the one that the trainer's step s + 1 gave before learning.

A real training run reads rows of text that the consumer's code has turned into features. After
each step it publishes a version. A follower of the folder scores the lines of the next batch, and
the next step's own logits are compared with that.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from src.channel.window import Provenance, make_window
from src.dictionaries.dictionaries import save_dictionaries
from src.dictionaries.growing.growth import Growth
from src.features.feature_builder import FeatureBuilder
from src.process.arrays import Array
from src.publishing.version_format import FULL
from src.rows.parsing import parse_messages
from src.scoring.follower import Follower
from src.scoring.requests.rows import rows_of_lines
from src.scoring.requests.scores import score
from src.trainer.publish_callback import PublishCallBack, Publishing
from tests.features.made import make_dictionaries
from tests.trainer.memory_topic import MemoryTopic, run, train_on

BATCH = 200
STEPS = (35, 31)
ROWS = BATCH * (sum(STEPS) + 1)
DICTIONARIES = make_dictionaries(C1_1v0=39, C2_2v1=40)
GROWN_IDS = 500
VOCAB_SIZE = 64 * 13 + DICTIONARIES.vocab_size_needed + GROWN_IDS
FOLDER = Path("versions")
FLAGS = (
    f"--vocab_size={VOCAB_SIZE}",
    f"--batch_size={BATCH}",
    "--sparse",
    "--table_optimizer=adagrad",
    "--deep_pairs",
    "--cross_bits=14",
    "--admit_count=2",
    "--expire_rows=1000",
    "--dense_transform=bucket",
    "--weight_bias_init=he_normal",
    "--save_checkpoint_steps=1000",
    f"--publish_path={FOLDER}",
    "--publish_seconds=1e-9",
    "--publish_full_every=10",
    "--publish_tolerance=10",
)
TOLERANCE = 1e-5


def text_rows() -> list[bytes]:
    """Lines whose values come and go; some values are missing, some too long to be learnt."""
    random = Random(11)
    lines = []
    for number in range(ROWS):
        age = number // 700
        dense = [random.choice(["", str(random.randrange(-2, 3000))]) for _ in range(13)]
        drawn = [random.randrange(12) for _ in range(26)]
        values = [age + value for value in drawn]
        texts = [f"{column}v{value}" for column, value in enumerate(values, start=1)]
        texts = ["" if value == 11 else text for value, text in zip(drawn, texts)]
        texts[2] = "x" * 70 if drawn[2] == 10 else texts[2]
        label = "1" if drawn[0] + drawn[1] + random.randrange(6) < 14 else "0"
        lines.append("\t".join([label, *dense, *texts]).encode())
    return lines


class TextTopic(MemoryTopic):
    """One partition of lines; a window is made of them as the consumer makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = text_rows()
        self._features = FeatureBuilder(DICTIONARIES, "bucket", VOCAB_SIZE)

    def window(self) -> Array:
        return self.window_of(self.commit.position.offsets[0], ROWS)

    def window_of(self, begin: int, end: int) -> Array:
        """The lines from ``begin`` to ``end``."""
        rows = parse_messages(self.lines[begin:end])
        ids, weights = self._features.build(rows)
        offset = np.arange(begin, end, dtype=np.int64)
        partition = np.zeros(len(offset), np.int32)
        return make_window(
            ids,
            weights,
            rows.label,
            Provenance(partition, offset, offset, 10**12 + offset),
            num_shards=1,
            session=self.commit.session,
            dictionaries=self._features.fingerprint,
            oov=self._features.oov(ids),
            unknown=self._features.unknown(rows, ids),
            dense_transform=self._features.dense_transform,
            keys=self._features.keys(rows),
        )


class Comparison:
    """Compares each step's own logits with those that were served before it."""

    def __init__(self, topic: TextTopic) -> None:
        self.follower = Follower(FOLDER)
        self.compared = self.admitted = self.predicted = self.fulls = 0
        self.largest = 0.0
        self.freed: set[int] = set()
        self.given_again: set[int] = set()
        self.versions: list[int] = []
        self._topic = topic
        self._network: Any = None
        self._growth: Growth | None = None

    def served(self, step: int) -> Array:
        """The logits of the lines of a step's batch."""
        lines = self._topic.lines[(step - 1) * BATCH : step * BATCH]
        with self.follower.model() as model:
            assert model.manifest.version == step - 1
            scores = score(model, rows_of_lines(lines))
        assert not scores.errors
        return scores.logit

    def start(self, network: Any, growth: Growth | None) -> None:
        self._network, self._growth = network, growth

    def before_publishing(self, step: int, logit: Array, batch: Any) -> None:
        """Step ``step`` has given these logits to its batch."""
        if not self.versions:
            return
        served = self.served(step)
        assert self._growth is not None
        new = self._growth.ids_of(batch.change.slots)
        # In the very step that gives a value its id, the trainer scores it with the id's fresh row.
        # A request gives no ids, so there the value is still out of vocabulary.
        is_new = np.isin(batch.ids, new).any(axis=1)
        difference = np.abs(served - logit.ravel())[~is_new]
        self.largest = max(self.largest, float(difference.max(initial=0)))
        self.compared += len(difference)
        self.admitted += int(is_new.sum())
        self.given_again |= self.freed & set(new.tolist())
        self.freed |= set(self._growth.ids_of(batch.change.freed).tolist())

    def after_publishing(self, step: int) -> None:
        """Version ``step`` is published; the evaluation network must agree for every row."""
        self.follower.look()
        assert self.follower.fault == ""
        self.versions.append(step)
        manifest = self.follower.manifest
        assert manifest is not None
        self.fulls += manifest.kind == FULL
        if step % 7 == 0:
            window = self._topic.window_of(step * BATCH, (step + 1) * BATCH)
            assert self._growth is not None
            trained = self._growth._trained
            assert trained is not None
            ids, _ = trained.look_up(window["id"], window["oov"], window["value"])
            inputs = (ids, window["weight"], window["label"].reshape(-1, 1), window["key"])
            wanted = self._network(*map(ms.Tensor, inputs))[0].asnumpy().ravel()
            np.testing.assert_allclose(self.served(step + 1), wanted, rtol=0, atol=TOLERANCE)
            self.predicted += len(wanted)


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Comparison:
    topic = TextTopic()
    monkeypatch.chdir(tmp_path)
    train_on(topic, monkeypatch)
    save_dictionaries(
        DICTIONARIES, "all_val_max_dict.pkl", "all_val_min_dict.pkl", "cat2id_dict.pkl"
    )
    made = Comparison(topic)
    start, step_end = Publishing.start, PublishCallBack.on_train_step_end

    def noted_start(publishing: Publishing, network: Any, growth: Any, *more: Any) -> None:
        made.start(network, growth)
        start(publishing, network, growth, *more)

    def compared_step_end(callback: PublishCallBack, run_context: Any) -> None:
        progress = callback._progress
        logit = run_context.original_args().net_outputs[2].asnumpy()
        made.before_publishing(progress.step, logit, progress.batch)
        step_end(callback, run_context)
        assert callback._publishing is not None
        callback._publishing.wait()
        made.after_publishing(progress.step)

    monkeypatch.setattr(Publishing, "start", noted_start)
    monkeypatch.setattr(PublishCallBack, "on_train_step_end", compared_step_end)
    return made


@pytest.mark.slow
def test_served_scores_are_the_trainers_own(comparison: Comparison) -> None:
    run(STEPS[0], *FLAGS)
    run(STEPS[1], *FLAGS)
    found = comparison
    print(found.compared, found.admitted, found.largest, len(found.given_again), found.fulls)
    assert found.largest <= TOLERANCE
    assert found.compared >= 10_000
    assert found.predicted >= 1_000, "rows with values that the next step admits are among these"
    assert found.versions == [*range(1, sum(STEPS) + 1)]
    assert found.fulls < 10, "most versions are deltas"
    assert len(found.given_again) > 50, "freed ids went to other values"
    assert 0 < found.admitted < found.compared / 3
