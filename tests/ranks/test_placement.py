"""The role that follows from the environment: alone, MPI rank, node of a dynamic network."""

from __future__ import annotations

import ctypes

import pytest

from src.ranks.placement import (
    INDEX_VARIABLE,
    MPI_MARKS,
    Placement,
    RankError,
    Role,
    cpu_is_meant,
    map_mpi_to_dynamic_network,
    placement_of,
)

NETWORK = {
    "MS_ROLE": "MS_WORKER",
    "MS_SCHED_HOST": "192.0.2.1",
    "MS_SCHED_PORT": "8118",
    "MS_WORKER_NUM": "4",
}
UNDER_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
SCHEDULER = {"MS_SCHED_HOST": "192.0.2.1", "MS_SCHED_PORT": "8118"}


@pytest.mark.parametrize(
    ("environment", "placement"),
    [
        ({}, Placement(Role.ALONE)),
        ({"MS_ROLE": ""}, Placement(Role.ALONE)),
        (UNDER_MPI, Placement(Role.MPI_RANK, 4, 3)),
        ({**UNDER_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, Placement(Role.ALONE)),
        (NETWORK, Placement(Role.WORKER, 4, 0)),
        ({**NETWORK, INDEX_VARIABLE: "2"}, Placement(Role.WORKER, 4, 2)),
        ({**NETWORK, "MS_ROLE": "MS_SCHED"}, Placement(Role.SCHEDULER, 4)),
        # A dynamic network under mpirun: who set MS_ROLE meant it.
        ({**UNDER_MPI, **NETWORK, INDEX_VARIABLE: "1"}, Placement(Role.WORKER, 4, 1)),
    ],
)
def test_role_size_and_index_follow_from_the_environment(
    environment: dict[str, str], placement: Placement
) -> None:
    assert placement_of(environment) == placement


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"MS_ROLE": "MS_PSERVER"}, "MS_ROLE is MS_PSERVER"),
        ({"MS_SCHED_HOST": ""}, "MS_ROLE is MS_WORKER, but MS_SCHED_HOST is not set"),
        ({"MS_SCHED_PORT": ""}, "MS_ROLE is MS_WORKER, but MS_SCHED_PORT is not set"),
        ({"MS_WORKER_NUM": "0"}, "MS_WORKER_NUM is '0'"),
        ({"MS_WORKER_NUM": "two"}, "MS_WORKER_NUM is 'two'"),
        ({INDEX_VARIABLE: "-1"}, f"{INDEX_VARIABLE} is '-1'"),
    ],
)
def test_a_dynamic_networks_variable_that_is_wrong_is_named(
    change: dict[str, str], named: str
) -> None:
    with pytest.raises(RankError, match=named):
        placement_of({**NETWORK, **change})


def test_a_dynamic_network_needs_to_know_its_size() -> None:
    environment = {name: value for name, value in NETWORK.items() if name != "MS_WORKER_NUM"}
    with pytest.raises(RankError, match="MS_WORKER_NUM is None"):
        placement_of(environment)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "many"}, "OMPI_COMM_WORLD_SIZE is 'many'"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is None"),
    ],
)
def test_an_mpi_variable_that_is_wrong_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(RankError, match=named):
        placement_of(environment)


def test_an_mpi_rank_on_the_cpu_becomes_a_worker_in_the_eyes_of_mindspore_too() -> None:
    environment = {**UNDER_MPI, **SCHEDULER, **dict.fromkeys(MPI_MARKS, "set by mpirun")}
    placement = map_mpi_to_dynamic_network(placement_of(environment), environment)
    assert placement == Placement(Role.WORKER, size=4, index=3)
    assert placement_of(environment) == placement
    assert environment["MS_ROLE"] == "MS_WORKER"
    assert not set(MPI_MARKS) & set(environment), "MindSpore would take it for a rank of MPI's"


@pytest.mark.parametrize("missing", SCHEDULER)
def test_an_mpi_rank_that_does_not_know_the_scheduler_is_sent_to_the_launcher(missing: str) -> None:
    environment = {**UNDER_MPI, **SCHEDULER, missing: ""}
    before = dict(environment)
    with pytest.raises(RankError, match="mpirun_dist_online_train.sh"):
        map_mpi_to_dynamic_network(placement_of(environment), environment)
    assert environment == before


def test_a_device_that_is_named_is_used() -> None:
    assert cpu_is_meant("CPU")
    assert not cpu_is_meant("GPU")


@pytest.mark.parametrize("has_driver", [True, False])
def test_auto_means_the_cpu_where_there_is_no_driver(
    has_driver: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> object:
        assert name == "libcuda.so.1"
        if not has_driver:
            raise OSError("cannot open shared object file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cpu_is_meant("auto") is not has_driver
