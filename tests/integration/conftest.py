"""The real services: a private broker for each test process, and one engine for all of them."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Generator, Iterator, Mapping
from typing import Protocol

import pytest
from kafka import KafkaAdminClient

from examples.services.engine_service import EngineService
from examples.services.kafka_service import KafkaService
from src.process.ports import free_port
from tests.integration.crashes import HEADER, OUTCOMES
from tests.integration.ranks import RANK_HEADER, RANK_OUTCOMES
from tests.integration.shared_engine import SharedEngine


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    # A fixture can't print it: what is written while a test is torn down is captured.
    crashes, launches = config.stash.get(OUTCOMES, []), config.stash.get(RANK_OUTCOMES, [])
    for header, outcomes in ((HEADER, crashes), (RANK_HEADER, launches)):
        for line in ("", header, *map(str, outcomes)) if outcomes else ():
            terminalreporter.write_line(line)


class TopicFactory(Protocol):
    """Creates a topic with a name of its own and returns the name."""

    def __call__(
        self, num_partitions: int = 2, configs: Mapping[str, str] | None = None
    ) -> str: ...


@pytest.fixture(scope="session")
def kafka_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    with KafkaService(tmp_path_factory.mktemp("kafka"), free_port()) as service:
        yield service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Function) -> Generator[None, object, object]:
    """Lets tests that use the engine run beside each other, but not beside one that stops it."""
    if "engine" not in item.fixturenames:
        return (yield)
    with _shared_engine(item.config).during_a_test():
        return (yield)


def _shared_engine(config: pytest.Config) -> SharedEngine:
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    folder = factory.getbasetemp()
    # xdist gives each of its processes a folder in a common one.
    return SharedEngine(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def shared_engine(pytestconfig: pytest.Config) -> SharedEngine:
    return _shared_engine(pytestconfig)


@pytest.fixture(scope="session")
def engine(shared_engine: SharedEngine) -> Iterator[EngineService]:
    with shared_engine.used() as service:
        yield service


@pytest.fixture
def topic(kafka_service: KafkaService, request: pytest.FixtureRequest) -> Iterator[TopicFactory]:
    admin = KafkaAdminClient(bootstrap_servers=kafka_service.bootstrap_servers)
    test = re.sub(r"\W", "_", request.node.name)

    def create(num_partitions: int = 2, configs: Mapping[str, str] | None = None) -> str:
        name = f"{test}_{uuid.uuid4().hex[:8]}"
        options = {
            "num_partitions": num_partitions,
            "replication_factor": 1,
            "configs": dict(configs or {}),
        }
        admin.create_topics({name: options}, wait_for_metadata=True)
        return name

    yield create
    admin.close()
