"""Asks the service for the scores of probes until each is learnt."""

from __future__ import annotations

import logging

from examples.live.client import RequestFailedError, ScoringClient
from examples.live.probes import Probes
from src.process.stop import StopFlag

logger = logging.getLogger(__name__)

ASK_SECONDS = 0.02
MOST_PROBES = 100


def watch(client: ScoringClient, probes: Probes, flag: StopFlag) -> None:
    """Asks for the oldest probes again and again, until the flag is set.

    A probe's time ends with the answer that shows it. The pause between two questions is part of
    what is measured.
    """
    fault = ""
    while not flag.wait(ASK_SECONDS):
        waiting = probes.waiting(MOST_PROBES)
        try:
            answer = client.score([probes.control, *(probe.line for probe in waiting)])
        except RequestFailedError as error:
            if str(error) != fault:
                logger.warning("the service has not answered: %s", error)
            fault = str(error)
            continue
        fault = ""
        probes.judge(waiting, answer)
