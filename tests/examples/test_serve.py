"""examples/serve.py as a process: how it starts, how it stops, and what it says if it can't."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from examples.serve import main
from src.process.ports import free_port
from src.process.stop import StopFlag
from src.scoring.web.server import serve
from tests.scoring.made import Publisher
from tests.scoring.web.running import Client, settings_of, wait_until_ready

ROOT = Path(__file__).resolve().parents[2]


def started(folder: Path, *flags: str) -> tuple[subprocess.Popen[str], int]:
    """The process, and the port that it has chosen."""
    process = subprocess.Popen(
        [sys.executable, "examples/serve.py", f"--model={folder}", "--port=0", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/$", line.strip())
    assert found, line
    return process, int(found[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_running_requests_with_exit_code_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    made = Publisher(tmp_path)
    made.full()
    process, port = started(tmp_path, "--model_name=clicks")
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert json.load(answer)["version"] == 10
                break
        except urllib.error.HTTPError:
            time.sleep(0.05)
    body = json.dumps({"instances": [{"I1": 3}]}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as running:
        head = f"POST /v1/models/clicks:predict HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        running.sendall(head.encode() + body[:5])
        time.sleep(0.3)
        process.send_signal(number)
        time.sleep(0.5)
        running.sendall(body[5:])
        assert running.recv(65536).startswith(b"HTTP/1.1 200 OK")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "stopping" in log


def test_another_server_takes_over_without_a_request_that_fails(tmp_path: Path) -> None:
    Publisher(tmp_path).full()
    port = free_port()
    done, statuses = threading.Event(), []

    def keep_asking() -> None:
        while not done.is_set():
            statuses.append(client.ask("/v2/health/ready")[0])

    flags = [StopFlag(), StopFlag()]
    servers = [
        threading.Thread(
            target=serve, args=(settings_of(tmp_path, port=port, take_over=n > 0), flag)
        )
        for n, flag in enumerate(flags)
    ]
    client = Client(port)
    servers[0].start()
    wait_until_ready(client, has_version=True)
    asking = threading.Thread(target=keep_asking)
    asking.start()
    servers[1].start()
    time.sleep(1)
    flags[0].set("another has taken over")
    servers[0].join(20)
    time.sleep(0.5)
    done.set()
    asking.join(20)
    assert client.ask("/v2/health/ready")[0] == 200
    flags[1].set("the test has ended")
    servers[1].join(20)
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_a_port_in_use_is_one_line_and_exit_code_1(
    tmp_path: Path, own_logging: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([f"--model={tmp_path}", f"--port={port}"]) == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert f"can't listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize("host", ["300.1.1.1", "198.51.100.7"])
def test_an_address_that_is_not_this_machines_is_one_line_and_exit_code_1(
    tmp_path: Path, own_logging: None, capfd: pytest.CaptureFixture[str], host: str
) -> None:
    assert main([f"--model={tmp_path}", f"--host={host}", "--port=0"]) == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert f"can't listen on {host}:0" in line


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model=."],
        ["--model=x", "--max_rows=0"],
        ["--model=x", "--port=65536"],
        ["--model=x", "--max_age_seconds=-1"],
        ["--model=x", "--max_age_seconds=nan"],
        ["--model=x", "--model_name=a/b"],
        ["--model=x", "--model_name="],
    ],
)
def test_wrong_usage_is_exit_code_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if flags == ["--model=."]:
        flags = ["--model=.", "--unknown=1"]
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
