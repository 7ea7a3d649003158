from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from benchmarks.processes.scraper import Scraper
from examples.services.common import HOST
from src.process.ports import free_port
from src.watching.prometheus import serving


class TestScraper:
    @pytest.fixture
    def served(self) -> Iterator[tuple[Gauge, Scraper]]:
        registry, port = CollectorRegistry(), free_port()
        gauge = Gauge("answer", "A number", registry=registry)
        with serving(registry, port, HOST), Scraper(HOST, port) as scraper:
            yield gauge, scraper

    def test_fetches_the_numbers_of_the_moment(self, served: tuple[Gauge, Scraper]) -> None:
        number, scraper = served
        assert scraper.page == ""
        for value in (42, 43):
            number.set(value)
            scraper.ask()
            scraper.finish()
            assert f"answer {value}.0" in scraper.page.splitlines()

    def test_says_so_when_nobody_serves_them(self, capfd: pytest.CaptureFixture[str]) -> None:
        with Scraper(HOST, free_port()) as scraper:
            scraper.ask()
            with pytest.raises(RuntimeError, match="the numbers can't be fetched"):
                scraper.finish()
