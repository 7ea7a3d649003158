"""Prefixed lines, logs and last lines of the processes of a launch, read from real pipes."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.ranks.rank_output import TAIL_LINES, RankOutput


@pytest.fixture
def output(tmp_path: Path) -> Iterator[RankOutput]:
    with contextlib.closing(RankOutput(tmp_path / "logs")) as output:
        yield output


def follow(output: RankOutput, script: str, name: str = "worker 0") -> str:
    """What a process's stdout becomes here."""
    to = io.StringIO()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output.follow(name, process.stdout, to).join(20)
    return to.getvalue()


def test_lines_go_on_with_a_name_and_to_the_log_without(output: RankOutput, tmp_path: Path) -> None:
    assert follow(output, "print('first'); print('  second')") == (
        "[worker 0] first\n[worker 0]   second\n"
    )
    assert output.log_path("worker 0") == tmp_path / "logs" / "worker_0.log"
    assert output.log_path("worker 0").read_text() == "first\n  second\n"


def test_a_last_line_without_an_end_is_a_line(output: RankOutput) -> None:
    assert follow(output, "print('half', end='')") == "[worker 0] half\n"


def test_bytes_that_are_no_text_do_not_stop_the_reading(output: RankOutput) -> None:
    script = r"import sys; sys.stdout.buffer.write(b'\xff\xfe\nafter\n')"
    assert follow(output, script).splitlines()[1:] == ["[worker 0] after"]


def test_a_second_launch_appends_to_the_log_but_has_last_lines_of_its_own(tmp_path: Path) -> None:
    for number in range(2):
        output = RankOutput(tmp_path)
        follow(output, f"print('launch {number}')")
        assert output.tail("worker 0") == [f"launch {number}"]
        output.close()
    assert output.log_path("worker 0").read_text() == "launch 0\nlaunch 1\n"


def test_the_tail_is_the_last_lines_that_are_not_empty(output: RankOutput) -> None:
    follow(output, "for n in range(100): print(n); print('   ')")
    assert output.tail("worker 0") == [str(number) for number in range(100 - TAIL_LINES, 100)]
    assert output.tail("worker 1") == []


@pytest.mark.parametrize(
    ("printed", "name", "line"),
    [
        ("[1,0]<stdout>:epoch: 1, step: 7", "worker 0", "epoch: 1, step: 7"),
        ("[1,11]<stderr>:  indented", "worker 11", "  indented"),
        ("[1,3]<stdout>:", "worker 3", ""),
        ("mpirun noticed that process rank 1 exited", "mpirun", None),
    ],
)
def test_a_line_that_mpirun_has_tagged_is_its_workers(
    printed: str, name: str, line: str | None, output: RankOutput
) -> None:
    line = printed if line is None else line
    assert follow(output, f"print({printed!r})", "mpirun") == f"[{name}] {line}\n"
    assert output.log_path(name).read_text() == f"{line}\n"


def test_a_line_that_mpirun_got_in_pieces_is_put_together_by_rank(output: RankOutput) -> None:
    """As mpirun writes it when the ranks' lines reach it piece by piece, at the same time."""
    printed = (
        "[1,1]<stdout>:rank[1,1]<stdout>: [1,0]<stdout>:other[1,1]<stdout>:1\n"
        "[1,0]<stdout>: rank\n"
        "[1,2]<stdout>:half"
    )
    assert follow(output, f"print({printed!r}, end='')", "mpirun").splitlines() == [
        "[worker 1] rank 1",
        "[worker 0] other rank",
        "[worker 2] half",
    ]


def test_lines_of_several_processes_stay_whole(output: RankOutput) -> None:
    to = io.StringIO()

    def take(name: str) -> None:
        for number in range(300):
            output.take(name, f"{name} says {number}", to)

    names = [f"worker {index}" for index in range(4)]
    threads = [threading.Thread(target=take, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = to.getvalue().splitlines()
    for name in names:
        own = [f"{name} says {number}" for number in range(300)]
        assert [line for line in lines if line.startswith(f"[{name}]")] == [
            f"[{name}] {line}" for line in own
        ]
        assert output.log_path(name).read_text().splitlines() == own
    assert len(lines) == 4 * 300


def test_a_line_that_comes_after_the_end_still_shows(output: RankOutput) -> None:
    """A grandchild may hold the pipe for longer than its parent lives."""
    to = io.StringIO()
    output.take("worker 0", "before", to)
    output.close()
    failures: list[BaseException | None] = []
    before, threading.excepthook = threading.excepthook, lambda a: failures.append(a.exc_value)
    try:
        with subprocess.Popen(["echo", "after"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            output.follow("worker 0", process.stdout, to).join(20)
    finally:
        threading.excepthook = before
    assert failures == []
    assert to.getvalue() == "[worker 0] before\n[worker 0] after\n"
    assert output.log_path("worker 0").read_text() == "before\n"
