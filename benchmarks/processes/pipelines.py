"""Both pipelines as processes: a consumer and a trainer on a topic that holds the rows."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from benchmarks.documented.produce import produce_rows
from benchmarks.inputs import dictionary_files, row_files
from benchmarks.processes.drain import NAMESPACE
from benchmarks.settings import Settings
from benchmarks.stages.consume import Topics
from benchmarks.stages.produce import new_topic
from examples.demo.script import Script
from examples.services.common import wait_until
from src.stream.produce import ProduceOptions, send_file

LOSS_LINE = re.compile(r"epoch: 1, step: (\d+), wide_loss: (\S+), deep_loss: (\S+)")
WAIT_SECONDS = 300.0


class Losses:
    """The loss lines of a trainer, each with the time it came."""

    def __init__(self) -> None:
        self.wide: list[float] = []
        self.deep: list[float] = []
        self.times: list[float] = []

    def take(self, line: str) -> None:
        """Takes a line of the trainer's stdout."""
        match = LOSS_LINE.fullmatch(line)
        if match:
            self.wide.append(float(match[2]))
            self.deep.append(float(match[3]))
            self.times.append(time.monotonic())


def fill_one_partition(settings: Settings, rows: int) -> Topics:
    """The same rows on both wires, in topics of one partition, so that both keep their order."""
    servers = settings.bootstrap_servers
    topics = Topics(new_topic(servers, 1), new_topic(servers, 1))
    (path,) = row_files(settings.work_dir, rows, parts=1)
    send_file(path, 0, ProduceOptions(servers, topics.lines), lambda: False)
    produce_rows(path, 0, servers, topics.documented)
    return topics


class Pipeline:
    """Starts the scripts of one pipeline, and ends them at the end of the block.

    Args:
        settings: Services, sizes and the folder for logs and checkpoints.
        topic: The topic that holds the rows.
        is_documented: Whether to run the documented scripts, or this project's.
        shared_flags: Further flags of this project's consumer and trainer.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        is_documented: bool,
        shared_flags: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._is_documented = is_documented
        self._name = f"bench_{uuid.uuid4().hex[:8]}"
        self._folder = settings.work_dir / self._name
        self._folder.mkdir(parents=True)
        self._channel = [
            f"--address={settings.address}",
            f"--namespace={NAMESPACE}",
            f"--dataset_name={self._name}",
        ]
        self._topic = [f"--bootstrap_servers={settings.bootstrap_servers}", f"--topic={topic}"]
        self._own = [f"--group_id={self._name}", *shared_flags]
        self._scripts: list[Script] = []
        self.times_path = self._folder / "times.json"

    def start_consumer(self) -> Script:
        """Starts the consumer."""
        flags = [
            *self._channel,
            *self._topic,
            *dictionary_files(self._settings.work_dir).flags(),
            f"--window_size={self._settings.windows[0]}",
        ]
        if self._is_documented:
            return self._start("benchmarks/documented/consume", flags)
        return self._start("consumer", [*flags, *self._own])

    def start_trainer(
        self,
        losses: Losses,
        steps: int = 0,
        timed: bool = False,
        trainer_flags: Sequence[str] = (),
    ) -> Script:
        """Starts the trainer; ours ends after ``steps`` steps, or never where that is 0."""
        flags = [
            *self._channel,
            f"--batch_size={self._settings.batches[0]}",
            f"--ckpt_path={self._folder / 'ckpt'}",
        ]
        if self._is_documented:
            return self._start("benchmarks/documented/train", flags, losses)
        flags += [*self._topic, *self._own, "--loss_file_name=", "--fresh"]
        flags += ["--device_target=CPU", f"--max_steps={steps}", *trainer_flags]
        if timed:
            return self._start(
                "benchmarks/processes/timed_train", [str(self.times_path), *flags], losses
            )
        return self._start("online_train", flags, losses)

    def wait_for_steps(self, trainer: Script, losses: Losses, steps: int) -> None:
        """Waits for this number of loss lines.

        Raises:
            RuntimeError: A script ended before, or the lines did not come.
        """

        def done_or_failed() -> bool:
            ended = [script for script in self._scripts if script.code is not None]
            return len(losses.times) >= steps or any(
                script is not trainer or script.code for script in ended
            )

        wait_until(done_or_failed, WAIT_SECONDS, 0.02)
        if len(losses.times) < steps:
            tails = "\n".join(script.log()[-2000:] for script in self._scripts)
            raise RuntimeError(f"only {len(losses.times)} of {steps} steps:\n{tails}")

    def kill(self, script: Script) -> None:
        """Ends a script at once."""
        script.process.kill()
        script.wait(WAIT_SECONDS)
        self._scripts.remove(script)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        for script in reversed(self._scripts):
            with contextlib.suppress(ProcessLookupError):
                script.stop(timeout=20)
        if not any(error):  # after an error the logs may hold the reason
            shutil.rmtree(self._folder)

    def _start(self, name: str, flags: Sequence[str], losses: Losses | None = None) -> Script:
        log = self._folder / f"{Path(name).name}{len(self._scripts)}.log"
        on_line = losses.take if losses is not None else None
        script = Script(name, flags, log, on_line, cwd=self._folder)
        self._scripts.append(script)
        return script
