"""The live run of ``examples/live``, with a feed that goes on, and parts that can be restarted."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

from examples.demo.script import Script
from examples.live.client import MODEL_NAME
from examples.live.run import LivePlan, LiveRun
from src.process.stop import StopFlag

PREDICT = f"/v1/models/{MODEL_NAME}:predict"
LONGEST_SECONDS = 120.0


class ServingRun:
    """Rows flow, a model learns and serves, until the end of the block.

    Args:
        plan: What it is like.
        flag: Set to end it early.
    """

    def __init__(self, plan: LivePlan, flag: StopFlag) -> None:
        self.plan = plan
        self._flag = flag
        self._run = LiveRun(plan, flag)
        self._feeding: threading.Thread | None = None

    def __enter__(self) -> ServingRun:
        self._run.__enter__()
        try:
            self._run.warm_up()
        except BaseException:
            self._run.__exit__(None, None, None)
            raise
        self._feeding = threading.Thread(target=self._run.feed.run, args=(self._flag,), daemon=True)
        self._feeding.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._flag.set("the run is over")
        assert self._feeding is not None
        self._feeding.join(30)
        self._run.__exit__(*error)

    @property
    def server(self) -> Script:
        """The process that serves."""
        return self._run.script("serve")

    def restart_trainer(self) -> None:
        """Kills the trainer, starts it again, and waits for its first version."""
        before = self.status()["name"]
        trainer = self._run.script("trainer")
        trainer.process.kill()
        trainer.wait(30)
        self._run.start_again("trainer")
        self._wait_for(lambda status: status["name"].split("-")[1] != before.split("-")[1])

    def restart_server(self) -> None:
        """Starts another server on the same port, and stops the old one once that serves."""
        old = self.server
        self._run.start_again("serve", "--take_over")
        self._wait_for(lambda _: "version" in self.server.log() and " serves" in self.server.log())
        time.sleep(0.5)
        old.stop()

    def status(self) -> dict[str, Any]:
        """What the server says of itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.plan.port, timeout=10)
        try:
            connection.request("GET", "/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found

    def _wait_for(self, condition: Any) -> None:
        ends = time.monotonic() + LONGEST_SECONDS
        while not condition(self.status()):
            if time.monotonic() > ends:
                raise TimeoutError("the part that was restarted is not there")
            time.sleep(0.2)
