from __future__ import annotations

import subprocess
import sys


def test_the_server_needs_neither_kafka_nor_mindspore_nor_mindpandas() -> None:
    program = (
        "import sys, examples.serve, src.scoring.web.server\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(found & {'kafka', 'mindspore', 'mindspore_rec', 'mindpandas', 'yr'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
