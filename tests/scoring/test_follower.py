"""What serves while versions come, break, go back and go away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.process.arrays import Array
from src.process.stop import StopFlag
from src.publishing.chain import CURRENT
from src.rows.parsing import parse_messages
from src.scoring import follower as follower_module
from src.scoring.follower import Follower, NotReadyError
from tests.scoring.made import LINES, Publisher


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scores(follower: Follower) -> Array:
    with follower.model() as model:
        return model.logit(parse_messages(LINES))


def serves(follower: Follower) -> str:
    follower.look()
    with follower.model() as model:
        return model.manifest.name


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


BREAKING: list[Callable[[Path], None]] = [damage, cut, remove]


def test_every_version_serves_as_it_was_published(tmp_path: Path) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    for number in range(30):
        newest = made.full() if number % 11 == 0 else made.delta()
        assert serves(follower) == newest.name
        np.testing.assert_array_equal(scores(follower), made.expected())
    assert follower.swaps == 30
    assert (follower.failures, follower.fault) == (0, "")


def test_a_chain_is_read_from_its_beginning_at_the_start_and_several_deltas_at_once(
    tmp_path: Path,
) -> None:
    made = Publisher(tmp_path)
    made.full()
    for _ in range(3):
        made.delta()
    follower = Follower(tmp_path)
    for _ in range(4):
        serves(follower)
        np.testing.assert_array_equal(scores(follower), made.expected())
        made.delta()
        made.delta()
    assert follower.swaps == 4


def test_without_a_folder_nothing_serves_until_it_is_there(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "later")
    follower.look()
    with pytest.raises(NotReadyError, match="no version in .*later yet"), follower.model():
        pass
    assert follower.failures == 0
    made = Publisher(tmp_path / "later")
    newest = made.full()
    assert serves(follower) == newest.name


@pytest.mark.parametrize("file", ["weights.safetensors", "vocabulary.arrow", "manifest.json"])
@pytest.mark.parametrize("break_it", BREAKING)
def test_a_broken_delta_leaves_the_old_version_until_the_next_full_one(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
    break_it: Callable[[Path], None],
) -> None:
    clock = Clock()
    made, follower = Publisher(tmp_path), Follower(tmp_path, clock)
    made.full()
    old = made.delta().name
    assert serves(follower) == old
    wanted = made.expected()
    broken = made.delta().name
    break_it(tmp_path / broken / file)
    for _ in range(3):  # later deltas build on the broken one
        assert serves(follower) == old
        np.testing.assert_array_equal(scores(follower), wanted)
        made.delta()
        clock.now += 10
    assert broken in follower.fault
    assert file.split(".")[0] in follower.fault
    assert follower.failures == 3
    assert caplog.text.count(broken) == 1, "it is named once"
    assert serves(follower) == old
    newest = made.full().name
    assert serves(follower) == newest
    np.testing.assert_array_equal(scores(follower), made.expected())
    assert follower.fault == ""
    newest = made.delta().name
    assert serves(follower) == newest
    np.testing.assert_array_equal(scores(follower), made.expected())


def test_a_link_that_is_missing_altogether_is_named_and_the_ones_before_it_serve(
    tmp_path: Path,
) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    serves(follower)
    good = made.delta().name
    wanted = made.expected()
    shutil.rmtree(tmp_path / made.delta().name)
    made.delta()
    assert serves(follower) == good
    np.testing.assert_array_equal(scores(follower), wanted)
    assert "manifest.json: No such file" in follower.fault


def test_a_version_that_could_not_be_loaded_is_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    made, follower = Publisher(tmp_path), Follower(tmp_path, clock)
    newest = made.full().name
    hidden = tmp_path / "hidden"
    (tmp_path / newest).rename(hidden)
    follower.look()
    with pytest.raises(NotReadyError, match=newest), follower.model():
        pass
    hidden.rename(tmp_path / newest)
    follower.look()
    assert follower.manifest is None, "not at once"
    clock.now += follower_module.RETRY_SECONDS
    assert serves(follower) == newest


@pytest.mark.parametrize("name", ["wide_bias", "embedding_table"])
def test_weights_that_are_not_finite_do_not_serve(tmp_path: Path, name: str) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    old = serves(follower)
    made.arrays[name][:] = np.nan
    made._numbers = lambda shape: np.full(shape, np.nan, np.float32)  # type: ignore[method-assign]
    made.delta()
    assert serves(follower) == old
    assert "not finite" in follower.fault


def test_a_rollback_serves_the_older_version_and_goes_on_from_there(tmp_path: Path) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    wanted = {made.manifests[0].name: made.expected()}
    for _ in range(4):
        newest = made.delta().name
        wanted[newest] = made.expected()
        serves(follower)
    all_of_them = list(made.manifests)
    for length in (3, 1, 5, 2):
        made.point_to(all_of_them[:length])
        assert serves(follower) == all_of_them[length - 1].name
        np.testing.assert_array_equal(scores(follower), wanted[all_of_them[length - 1].name])


def test_a_trainer_that_went_back_to_its_checkpoint_is_followed_to_smaller_steps(
    tmp_path: Path,
) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    made.delta()
    serves(follower)
    again = Publisher(tmp_path, run="4567cdef")
    newest = again.full()
    assert serves(follower) == newest.name
    assert newest.version < made.step
    np.testing.assert_array_equal(scores(follower), again.expected())


def test_a_model_of_another_shape_takes_over(tmp_path: Path) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    made.delta()
    serves(follower)
    other = Publisher(
        tmp_path,
        run="89abcdef",
        emb_dim=5,
        cross_bits=0,
        deep_pairs=False,
        vocab_size=2000,
        dense_transform="bucket",
    )
    other.full()
    for _ in range(3):
        assert serves(follower) == other.manifests[-1].name
        np.testing.assert_array_equal(scores(follower), other.expected())
        other.delta()


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1, "chain": []}', b"[1]", b"\xff"])
def test_a_damaged_current_json_leaves_the_old_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    old = made.full().name
    serves(follower)
    (tmp_path / CURRENT).write_bytes(content)
    assert serves(follower) == old
    assert serves(follower) == old
    assert caplog.text.count(CURRENT) == 1
    newest = made.delta().name
    assert serves(follower) == newest


def test_the_old_version_serves_when_the_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    made, follower = Publisher(folder), Follower(folder)
    old = made.full().name
    serves(follower)
    shutil.rmtree(folder)
    assert serves(follower) == old
    assert "is gone" in follower.fault
    folder.mkdir()
    newest = made.full().name
    assert serves(follower) == newest


def test_a_request_keeps_its_version_while_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "MOST_SECONDS_IN_USE", 0.05)
    made, follower = Publisher(tmp_path), Follower(tmp_path)
    made.full()
    serves(follower)
    wanted = made.expected()
    with follower.model() as model:
        for _ in range(4):
            newest = made.delta().name
            assert serves(follower) == newest
            np.testing.assert_array_equal(scores(follower), made.expected())
            np.testing.assert_array_equal(model.logit(parse_messages(LINES)), wanted)


def test_the_loop_ends_with_the_flag_and_follows_until_then(tmp_path: Path) -> None:
    made, follower, flag = Publisher(tmp_path), Follower(tmp_path), StopFlag()
    made.full()
    flag_set = follower.look

    def look_and_stop() -> None:
        flag_set()
        flag.set("seen")

    follower.look = look_and_stop  # type: ignore[method-assign]
    follower.run(flag)
    assert follower.swaps == 1
