"""The commands in README.md and docs/, and which of them a test runs.

A block marked ``bash`` holds commands, one per line. ``tests/integration/documents`` runs them.
A block marked ``text`` is an illustration.
"""

from __future__ import annotations

import re

from examples.services.common import ROOT

README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").glob("*.md")))

IN_EVERY_TERMINAL = ("source .venv/bin/activate", "export MASTER_HOST_IP=127.0.0.1")
STEPS = (
    "make setup",
    "python examples/make_sample.py",
    "python examples/process_data.py",
    "bin/zookeeper-server-start.sh",
    "bin/kafka-server-start.sh",
    "python kafka_client.py",
    "yrctl start",
    "python producer.py",
    "python consumer.py",
    "python online_train.py",
    "yrctl stop",
)
DEAD_LETTERS = (
    "python examples/dead_letters.py count",
    "python examples/dead_letters.py list",
    "python examples/dead_letters.py replay",
)
EVALUATE = "python examples/evaluate.py"
DEMO = "make demo"
REPORT = "python examples/report.py"
OWN_FILE = "python examples/quickstart.py --data day_0.tsv"
ADAPTIVE = f"{OWN_FILE} --config_path examples/adaptive.yaml"
EXPORT = "python examples/export_vocabulary.py"
MANY_CARDS = ("bash run_dist", "bash mpirun_dist", "make demo-ranks")
OTHERS = ("make test", "make services-up", "make services-down")


def commands_of(text: str) -> list[str]:
    """The lines of a document's ``bash`` blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


README_COMMANDS = commands_of(README.read_text(encoding="utf-8"))
COMMANDS = [
    command for path in DOCUMENTS for command in commands_of(path.read_text(encoding="utf-8"))
]


def only(start: str) -> str:
    """The one command of the documents that starts with these words; it may stand in several."""
    commands = [command for command in COMMANDS if command.startswith(start)]
    assert len(set(commands)) == 1, start
    return commands[0]
