"""One pass of Vowpal Wabbit over a Criteo file; run by a Python of its own.

    build/vowpal_wabbit/bin/python benchmarks/learning/vowpal_wabbit.py FILE SKIP LIMIT OUTPUT

Every field is one feature, `<column>_<value>`, hashed into 2^22 weights, as its users do with this
data. FTRL with alpha 0.05 and beta 1 is the best of the settings that were tried (learning.md).
Each row is scored before it is learnt from. OUTPUT gets the logits of all rows as float64. The last
line on stdout is the seconds that learning took, with the parsing of the features.
"""

from __future__ import annotations

import array
import math
import sys
import time
from itertools import islice

from vowpalwabbit import Workspace

FLAGS = "--loss_function logistic --ftrl --ftrl_alpha 0.05 --ftrl_beta 1 -b 22 --quiet"


def example(line: str) -> str:
    """A row in Vowpal Wabbit's text format."""
    label, *fields = line.rstrip("\r\n").split("\t")
    features = " ".join(f"{place}_{value}" for place, value in enumerate(fields))
    return f"{'1' if label == '1' else '-1'} | {features}"


def main(path: str, skip: str, limit: str, output: str) -> int:
    """Learns; returns the exit code."""
    with open(path, encoding="utf-8") as file:
        examples = [example(line) for line in islice(file, int(skip), int(skip) + int(limit))]
    workspace = Workspace(FLAGS)
    scores = array.array("d")
    began = time.perf_counter()
    for text in examples:
        parsed = workspace.example(text)
        workspace.learn(parsed)
        scores.append(parsed.get_simplelabel_prediction())
        workspace.finish_example(parsed)
    seconds = time.perf_counter() - began
    workspace.finish()
    if not all(map(math.isfinite, scores)):
        print("a score is not finite", file=sys.stderr)
        return 1
    with open(output, "wb") as file_of_scores:
        scores.tofile(file_of_scores)
    print(seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
