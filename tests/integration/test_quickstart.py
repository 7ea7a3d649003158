from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient

from examples.demo.losses import RANK_PREFIX
from examples.demo.plan import DemoError
from examples.demo.rows import prepare, split_rows
from examples.demo.run import remove_earlier_demos
from examples.quickstart import parse_args
from examples.sample.rows import write_sample
from examples.services.common import ROOT, wait_until
from examples.services.engine_service import EngineService, engine_processes
from examples.services.kafka_service import KafkaService
from src.process.ports import free_port, listening_ports
from tests.integration.pipeline import BATCH_SIZE, LONG, LOSS_LINE, SMALL_MODEL

SUMMARY = re.compile(
    r"produced (?P<produced>\d+) rows, consumed (?P<windows>\d+) windows, "
    r"trained (?P<trained>\d+) rows in (?P<steps>\d+) steps at [1-9]\d* rows/s; "
    r"wide_loss (?P<first>[\d.]+) -> (?P<last>[\d.]+) \(mean of 10: [\d.]+ -> [\d.]+\), "
    r"deep_loss [\d.]+ -> [\d.]+ \(mean of 10: [\d.]+ -> [\d.]+\); "
    r"progressive (?P<scores>AUC 0\.\d{4}, log loss 0\.\d{4}); "
    r"checkpoint (?P<checkpoint>ckpt/widedeep_train-1_\d+\.ckpt)"
)
UNTRAINED_LOSS = math.log(2)  # of weights that score all rows alike
STARTED = ("consumer.py", "online_train.py", "producer.py", "kafka.Kafka")


def _still_runs(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie is dead, and waits for the init process to reap it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Quickstart:
    """A running quickstart and everything it starts."""

    def __init__(self, folder: Path, port: int, flags: Sequence[str]) -> None:
        self.folder = folder
        self.work_dir = folder / "demo"
        self.port = port
        command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
        options = [f"--work_dir={self.work_dir}", f"--bootstrap_servers=127.0.0.1:{port}"]
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [*command, *options, *SMALL_MODEL, *flags], cwd=folder, stdout=stdout, stderr=stderr
            )
        self._seen: dict[int, psutil.Process] = {}

    def lines(self) -> list[str]:
        return (self.folder / "stdout").read_text().splitlines()

    def parts(self) -> tuple[list[str], str, list[str]]:
        """The loss lines, the line that sums the run up, and the lines on where to look next."""
        *losses, last, page, own_data, adaptive = self.lines()
        return losses, last, [page, own_data, adaptive]

    def errors(self) -> str:
        return (self.folder / "stderr").read_text()

    def look(self) -> dict[str, psutil.Process]:
        """The processes that it has started and that still run, by name."""
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                words = child.cmdline()
                self._seen[child.pid] = child
                for name in STARTED:
                    if any(word.endswith(name) for word in words):
                        found.setdefault(name, child)
        return found

    def wait_for_step(self) -> dict[str, psutil.Process]:
        """Waits for the first loss line."""
        assert wait_until(lambda: bool(self.lines()) or self.process.poll() is not None, LONG)
        assert self.process.poll() is None, self.errors()
        return self.look()

    def assert_nothing_left(self, seconds: float = 0.0) -> None:
        """Fails when a process that it started runs longer than that."""
        _, left = psutil.wait_procs(self._seen.values(), timeout=seconds)
        assert not [process for process in left if _still_runs(process)]

    def __enter__(self) -> Quickstart:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(LONG)


@contextlib.contextmanager
def quickstart(folder: Path, *flags: str, port: int | None = None) -> Iterator[Quickstart]:
    """Runs it with a small model, and with a broker of its own unless a port is given."""
    with Quickstart(folder, port or free_port(), flags) as running:
        yield running


def topics_of(broker: KafkaService) -> set[str]:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)) as admin:
        return {topic for topic in admin.list_topics() if not topic.startswith("__")}


def assert_commands_of(next_steps: Sequence[str], folder: Path) -> None:
    """Fails unless the lines name three commands and the first makes the run's report page."""
    names, commands = zip(*(line.split(":", 1) for line in next_steps))
    assert names == ("report page", "your own data", "adaptive")
    page, own_data, adaptive = (shlex.split(command) for command in commands)
    for words in (page, own_data, adaptive):
        assert words[0] == "python"
        assert (folder / words[1]).resolve().parent == ROOT / "examples"
    subprocess.run([sys.executable, *page[1:]], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    assert "Every row was scored" in (folder / "report.html").read_text()
    plan = parse_args(own_data[2:])
    assert (plan.data, plan.config.admit_count) == (Path("FILE"), 0)
    adaptive[-1] = str(folder / adaptive[-1])
    assert parse_args(adaptive[2:]).config.admit_count == 1
    assert parse_args(adaptive[2:]).config.batch_seconds == 0


class TestRun:
    pytestmark = pytest.mark.slow

    def test_trains_prints_the_loss_lines_sums_up_and_leaves_a_checkpoint_and_no_process(
        self, tmp_path: Path, engine: EngineService
    ) -> None:
        engine_before = {process.pid for process in engine_processes()}
        with quickstart(tmp_path, "--steps=60") as running:
            assert "kafka.Kafka" in running.wait_for_step()
            assert running.process.wait(LONG) == 0, running.errors()
            running.assert_nothing_left()
        losses, last, next_steps = running.parts()
        steps = [LOSS_LINE.fullmatch(line) for line in losses]
        assert [match and int(match[1]) for match in steps] == list(range(1, 61))
        summary = SUMMARY.fullmatch(last)
        assert summary is not None, last
        rows = str(60 * BATCH_SIZE)
        assert (summary["produced"], summary["trained"], summary["steps"]) == (rows, rows, "60")
        # The number depends on how fast rows come: rows that wait are taken together.
        consumer = (running.work_dir / "consumer.log").read_text()
        assert int(summary["windows"]) >= 1
        assert f"consumed {summary['windows']} windows," in consumer
        assert f"wide_loss: {summary['first']}," in losses[0]
        assert f"wide_loss: {summary['last']}," in losses[-1]
        assert (tmp_path / summary["checkpoint"]).exists()
        assert running.port not in listening_ports()
        assert {process.pid for process in engine_processes()} == engine_before
        assert_commands_of(next_steps, tmp_path)

    def test_streams_the_users_file_through_the_broker_that_is_there_and_takes_its_topic_away(
        self, tmp_path: Path, engine: EngineService, kafka_service: KafkaService
    ) -> None:
        topics = topics_of(kafka_service)
        data = tmp_path / "data.tsv"
        write_sample([data], 1500)
        with quickstart(tmp_path, f"--data={data}", port=kafka_service.port) as running:
            assert running.process.wait(LONG) == 0, running.errors()
        _, last, _ = running.parts()
        summary = SUMMARY.fullmatch(last)
        assert summary is not None, last
        assert (summary["produced"], summary["trained"]) == ("1000", "1000")
        assert "dictionaries from 500 rows" in running.errors()
        assert topics_of(kafka_service) == topics

    def test_several_ranks_train_what_was_produced_as_one_trainer(
        self, tmp_path: Path, engine: EngineService, kafka_service: KafkaService
    ) -> None:
        flags = ("--ranks=2", "--launcher=network", "--steps=20")
        with quickstart(tmp_path, *flags, port=kafka_service.port) as running:
            assert running.process.wait(LONG) == 0, running.errors()
            running.assert_nothing_left()
        losses, last, _ = running.parts()
        steps = [LOSS_LINE.fullmatch(RANK_PREFIX.sub("", line)) for line in losses]
        assert [match and int(match[1]) for match in steps] == list(range(1, 21))
        rows = 20 * 2 * BATCH_SIZE
        launcher = "run_dist_online_train.sh"
        assert f"trained {rows} rows in 20 steps on 2 ranks by {launcher} at " in last
        assert f"produced {rows} rows" in last

    def test_starts_with_what_the_history_taught_where_the_vocabulary_grows(
        self, tmp_path: Path, engine: EngineService, kafka_service: KafkaService
    ) -> None:
        data = tmp_path / "data.tsv"
        write_sample([data], 900)
        flags = (f"--data={data}", f"--config_path={ROOT / 'examples' / 'adaptive.yaml'}")
        with quickstart(tmp_path, *flags, port=kafka_service.port) as running:
            assert running.process.wait(LONG) == 0, running.errors()
        assert "training on the 300 rows of the history" in running.errors()
        (warm,) = (running.work_dir / "warm_start").glob("*.ckpt")
        assert json.loads(warm.with_suffix(".json").read_bytes())["step"] == 300 // BATCH_SIZE
        trainer = (running.work_dir / "online_train.log").read_text()
        assert f"starting with the weights of {warm}" in trainer
        _, last, _ = running.parts()
        summary = SUMMARY.fullmatch(last)
        assert summary is not None, last
        assert (summary["trained"], summary["steps"]) == ("600", "12")
        assert float(summary["first"]) < UNTRAINED_LOSS - 0.05
        assert f"all 600 rows: {summary['scores']}" in trainer


class TestEarlyEnd:
    pytestmark = pytest.mark.slow
    endless = "--rows=100000"

    def test_ctrl_c_stops_everything(self, tmp_path: Path, engine: EngineService) -> None:
        with quickstart(tmp_path, self.endless) as running:
            assert set(running.wait_for_step()) >= {"consumer.py", "online_train.py"}
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(30) == 130, running.errors()
            running.assert_nothing_left()
        assert "stopped by SIGINT" in running.errors()
        assert list((tmp_path / "ckpt").glob("*.ckpt"))
        assert running.port not in listening_ports()

    def test_sigterm_while_a_service_starts_stops_it(
        self, tmp_path: Path, engine: EngineService
    ) -> None:
        with quickstart(tmp_path, self.endless) as running:
            assert wait_until(lambda: "kafka.Kafka" in running.look(), LONG)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(30) == 143, running.errors()
            running.assert_nothing_left()
        assert running.port not in listening_ports()

    def test_part_that_fails_is_named_with_the_end_of_its_log_and_the_rest_is_stopped(
        self, tmp_path: Path, engine: EngineService, kafka_service: KafkaService
    ) -> None:
        topics = topics_of(kafka_service)
        with quickstart(tmp_path, self.endless, port=kafka_service.port) as running:
            running.wait_for_step()["consumer.py"].kill()
            assert running.process.wait(30) == 1, running.errors()
            running.assert_nothing_left()
        assert f"consumer.py ended with exit code {-signal.SIGKILL}" in running.errors()
        assert "reading from 0:0, 1:0" in running.errors()
        assert topics_of(kafka_service) == topics

    def test_nothing_outlives_a_quickstart_that_is_killed(
        self, tmp_path: Path, engine: EngineService
    ) -> None:
        with quickstart(tmp_path, self.endless) as running:
            running.wait_for_step()
            running.process.kill()
            running.process.wait()
            running.assert_nothing_left(seconds=30)

    @pytest.mark.parametrize(
        ("flags", "code", "said"),
        [
            (["--steps=3", "--rows=100"], 1, "100 rows to stream are too few for 3 steps of 50"),
            (["--data=missing.tsv"], 1, "missing.tsv: No such file"),
            ([f"--data={ROOT / 'README.md'}"], 1, "README.md, line 1: 1 fields, expected 40"),
            (["--batch_sise=5"], 2, "did you mean --batch_size"),
            (["--rows=0"], 2, "--rows must be positive"),
        ],
    )
    def test_mistake_of_the_user_is_named_before_anything_starts(
        self, tmp_path: Path, flags: list[str], code: int, said: str
    ) -> None:
        with quickstart(tmp_path, *flags) as running:
            assert running.process.wait(LONG) == code
        assert said in running.errors()
        assert not (running.work_dir / "kafka").exists()


class TestRows:
    def test_of_a_file_are_dealt_in_turn_behind_the_history(self, tmp_path: Path) -> None:
        write_sample([tmp_path / "data"], 9)
        lines = (tmp_path / "data").read_bytes().splitlines(keepends=True)
        data = tmp_path / "day_0.gz"
        data.write_bytes(gzip.compress(b"".join(lines) + lines[0][:-1]))
        first, one, two = (tmp_path / name for name in ("first", "one", "two"))
        assert split_rows(data, 3, None, first, [one, two]) == (3, 6)
        assert first.read_bytes() == b"".join(lines[:3])
        assert one.read_bytes() == b"".join(lines[3::2])
        assert two.read_bytes() == b"".join(lines[4::2])
        assert split_rows(data, 3, 3, first, [one, two]) == (3, 3)
        assert two.read_bytes() == lines[4]
        assert split_rows(data, None, None, first, [one, two]) == (3, 6)

    def test_come_from_a_pipe_too(self, tmp_path: Path) -> None:
        write_sample([tmp_path / "data"], 9)
        lines = (tmp_path / "data").read_bytes().splitlines(keepends=True)
        reader, writer = os.pipe()
        os.write(writer, b"".join(lines))
        os.close(writer)
        first, one, two = (tmp_path / name for name in ("first", "one", "two"))
        assert split_rows(f"/dev/fd/{reader}", None, None, first, [one, two]) == (3, 6)
        os.close(reader)
        assert first.read_bytes() == b"".join(lines[:3])

    def test_are_not_read_from_a_file_that_would_be_written(self, tmp_path: Path) -> None:
        data = tmp_path / "output1.tsv"
        write_sample([data], 900)
        with pytest.raises(DemoError, match="is a file that this script writes"):
            prepare(parse_args([f"--data={data}", f"--work_dir={tmp_path}"]))

    def test_give_dictionaries_from_the_first_and_steps_for_the_rest(self, tmp_path: Path) -> None:
        data = tmp_path / "data.tsv"
        write_sample([data], 900)
        common = [f"--data={data}", f"--work_dir={tmp_path}", "--batch_size=64"]
        stream = prepare(parse_args(common))
        assert (stream.made.rows, stream.rows, stream.steps) == (300, 600, 9)
        stream = prepare(parse_args([*common, "--history_rows=400", "--rows=200", "--steps=2"]))
        assert (stream.made.rows, stream.rows, stream.steps) == (400, 200, 2)
        assert b"".join(
            line
            for pair in zip(*(path.read_bytes().splitlines(True) for path in stream.files))
            for line in pair
        ) == b"".join(data.read_bytes().splitlines(True)[400:600])


class TestFlags:
    def test_that_are_not_its_own_go_to_the_trainer(self, tmp_path: Path) -> None:
        more = tmp_path / "more.yaml"
        more.write_text("l2_coef: 0.5\nbatch_size: 7\n")
        plan = parse_args(
            ["--emb_dim", "8", "--steps=3", "--sparse", "--", f"--config_path={more}"]
        )
        config = plan.config
        assert (config.emb_dim, config.sparse, config.l2_coef, config.batch_size) == (
            8,
            True,
            0.5,
            7,
        )
        assert plan.steps == 3
        assert config.topic.startswith("demo_")
        assert config.fresh

    def test_name_another_topic(self) -> None:
        assert parse_args([]).topic_is_ours
        plan = parse_args(["--topic=clicks"])
        assert plan.config.topic == "clicks"
        assert not plan.topic_is_ours


def test_only_checkpoints_of_earlier_demos_are_removed(tmp_path: Path) -> None:
    for step, topic in ((1, "demo_0123abcd"), (2, "python_test1"), (3, "demo_of_mine")):
        (tmp_path / f"widedeep_train-1_{step}.ckpt").touch()
        (tmp_path / f"widedeep_train-1_{step}.json").write_text(json.dumps({"topic": topic}))
    (tmp_path / "other.json").write_text("[]")
    remove_earlier_demos(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.json",
        "widedeep_train-1_2.ckpt",
        "widedeep_train-1_2.json",
        "widedeep_train-1_3.ckpt",
        "widedeep_train-1_3.json",
    ]
    remove_earlier_demos(tmp_path / "missing")
