"""Rounds of ranks, as threads that meet at a barrier.

The real exchange is tried in ``test_group.py``; here it is its callers that matter.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.process.stop import StopFlag
from src.ranks import rounds as rounds_module
from src.ranks.group import Ranks
from src.ranks.placement import RankError
from src.ranks.rounds import Lockstep, SharedSession
from tests.ranks.thread_ranks import ThreadRanks, together

pytestmark = pytest.mark.timeout(60)


class DiskFull(RuntimeError):  # noqa: N818
    pass


# --- rounds


def test_a_round_tells_all_what_each_has_said() -> None:
    def body(ranks: ThreadRanks) -> Any:
        stop, said = Lockstep(ranks, StopFlag()).round(ranks.rank, 10 - ranks.rank)
        return stop, said.tolist()

    assert together(3, body) == [(False, [[0, 10], [1, 9], [2, 8]])] * 3


def test_a_stop_at_one_rank_is_one_at_all_and_is_put_down_to_it() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        if ranks.rank == 2:
            flag.set("SIGTERM")
        stop, _ = Lockstep(ranks, flag).round()
        return stop, flag.is_set(), flag.reason

    asked = (True, True, "rank 2 asked for a stop")
    assert together(4, body) == [asked, asked, (True, True, "SIGTERM"), asked]


def test_a_stop_asked_for_in_mid_round_is_agreed_on_in_the_next_one() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        lockstep = Lockstep(ranks, flag)
        first, _ = lockstep.round()
        if ranks.rank == 0:
            flag.set("SIGTERM")
        second, _ = lockstep.round()
        return first, second

    assert together(2, body) == [(False, True)] * 2


def test_something_is_tried_until_it_has_come_off_on_all_ranks() -> None:
    def body(ranks: ThreadRanks) -> Any:
        attempts: list[int] = []

        def attempt() -> bool:
            attempts.append(1)
            return len(attempts) > 2 * ranks.rank

        return Lockstep(ranks, StopFlag()).until_all(attempt), len(attempts), ranks.rounds

    assert together(3, body) == [(True, 1, 5), (True, 3, 5), (True, 5, 5)]


def test_trying_ends_on_all_ranks_when_one_is_to_stop() -> None:
    def body(ranks: ThreadRanks) -> Any:
        flag = StopFlag()
        attempts: list[int] = []

        def attempt() -> bool:
            attempts.append(1)
            if ranks.rank == 1 and len(attempts) == 3:
                flag.set("SIGTERM")
            return ranks.is_first

        return Lockstep(ranks, flag).until_all(attempt), ranks.rounds

    assert together(2, body) == [(False, 3)] * 2


def test_the_others_keep_rank_0_company_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "BUSY_SECONDS", 0.05)

    def work() -> str:
        time.sleep(0.5)
        return "done"

    def body(ranks: ThreadRanks) -> Any:
        return Lockstep(ranks, StopFlag()).on_first(work), ranks.rounds

    results: Any = together(3, body)
    assert [result for result, _ in results] == ["done", None, None]
    assert {rounds for _, rounds in results} == {results[0][1]}
    assert results[0][1] >= 5, "nobody may be silent for as long as the work takes"


def test_an_error_of_rank_0_is_one_on_all_ranks() -> None:
    def work() -> str:
        raise DiskFull("the disk is full")

    def body(ranks: ThreadRanks) -> Any:
        return Lockstep(ranks, StopFlag()).on_first(work)

    first, *others = together(3, body, (DiskFull,))
    assert isinstance(first, DiskFull) and str(first) == "the disk is full"
    for other in others:
        assert isinstance(other, RankError) and "rank 0 has failed" in str(other)


def test_a_rank_that_is_alone_works_without_a_round() -> None:
    threads: list[threading.Thread] = []

    def work() -> str:
        threads.append(threading.current_thread())
        return "done"

    assert Lockstep(Ranks(), StopFlag()).on_first(work) == "done"
    assert threads == [threading.current_thread()]


# --- rows asked for again


def test_a_pipeline_that_asks_waits_for_the_session_that_all_begin() -> None:
    shared = SharedSession()
    got: list[int] = []
    pipeline = threading.Thread(target=lambda: got.append(shared.ask()))
    assert not shared.is_wanted()
    pipeline.start()
    while not shared.is_wanted():
        time.sleep(0.001)
    assert got == []
    shared.begin(78)
    pipeline.join(10)
    assert got == [78]
    assert not shared.is_wanted()


def test_a_session_begun_before_is_no_answer() -> None:
    shared = SharedSession()
    shared.begin(77)
    got: list[int] = []
    pipeline = threading.Thread(target=lambda: got.append(shared.ask()))
    pipeline.start()
    pipeline.join(0.2)
    assert got == []
    assert shared.is_wanted()
    shared.begin(78)
    pipeline.join(10)
    assert got == [78]


def test_a_pipeline_that_asks_is_let_go_when_there_will_be_no_answer() -> None:
    shared = SharedSession()
    pipeline = threading.Thread(target=shared.ask)
    pipeline.start()
    shared.close()
    pipeline.join(10)
    assert not pipeline.is_alive()


# --- weights, with the real methods of Ranks


class OneWeight(nn.Cell):  # type: ignore[misc]
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.full(3, value, np.float32)), name="weight")


def test_make_equal_and_verify_equal_name_what_differs() -> None:
    def body(ranks: ThreadRanks) -> Any:
        network = OneWeight(ranks.rank // 2)
        differing = ranks.differing(network)
        sent = ranks.make_equal(network)
        return differing, sent, network.weight.asnumpy().tolist()

    assert together(4, body) == [({"weight": [2, 3]}, 1, [0.0] * 3)] * 4
