from __future__ import annotations

import subprocess
import sys


def test_a_signal_that_the_program_handles_does_not_fail_a_read() -> None:
    code = (
        "import os, signal, threading\n"
        "from src.rows.parsing import parse_messages\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "lines = [b'\\t'.join([b'1', *[b'7'] * 39])] * 20_000\n"
        "done = threading.Event()\n"
        "def strike():\n"
        "    while not done.wait(0.001): os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=strike, daemon=True).start()\n"
        "print({len(parse_messages(lines).label) for _ in range(20)})\n"
        "done.set()\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.stdout == "{20000}\n", run.stderr
