"""One pass of Vowpal Wabbit over a Criteo file; run by a Python of its own.

    build/vowpal_wabbit/bin/python benchmarks/learning/vowpal_wabbit.py WAY FILE SKIP LIMIT OUTPUT

WAY is one of two:

* `vowpal_wabbit`: every field is one feature, `<column>_<value>`, hashed into 2^22 weights, as its
  users do with this data. FTRL with alpha 0.05 and beta 1 is the best of the settings that were
  tried (learning.md).
* `vowpal_wabbit_pairs`: dense columns are in buckets first, and all pairs of features are features
  too (`-q ::`), in 2^24 weights. A row has 820 features: the 39 fields, their 741 pairs, the 39
  pairs of a field with itself, and the constant. A pair of a field with itself is a second weight
  of that field. Without these 39 the scores are no better.

Each row is scored before it is learnt from. OUTPUT gets the logits of all rows as float64. The last
line on stdout is the seconds that learning took, with the parsing of the features.
"""

from __future__ import annotations

import array
import math
import sys
import time
from itertools import islice

FLAGS = {
    "vowpal_wabbit": "--ftrl_alpha 0.05 -b 22",
    "vowpal_wabbit_pairs": "--ftrl_alpha 0.005 -b 24 -q ::",
}
COMMON_FLAGS = "--loss_function logistic --ftrl --ftrl_beta 1 --quiet"
DENSE_SIZE = 13


def bucket(value: str) -> int:
    """The bucket of a dense value, as `bucket_dense_column` has it; our code is not importable."""
    if not value:
        return 0
    number = float(value)
    return 1 if number < 0 else min(2 + math.floor(4 * math.log1p(number)), 63)


def example(line: str, in_buckets: bool) -> str:
    """A row in Vowpal Wabbit's text format."""
    label, *fields = line.rstrip("\r\n").split("\t")
    if in_buckets:
        fields[:DENSE_SIZE] = [str(bucket(value)) for value in fields[:DENSE_SIZE]]
    features = " ".join(f"{place}_{value}" for place, value in enumerate(fields))
    return f"{'1' if label == '1' else '-1'} | {features}"


def main(way: str, path: str, skip: str, limit: str, output: str) -> int:
    """Learns; returns the exit code."""
    from vowpalwabbit import Workspace  # here, so that a Python without it can test the rest

    in_buckets = way == "vowpal_wabbit_pairs"
    with open(path, encoding="utf-8") as file:
        lines = islice(file, int(skip), int(skip) + int(limit))
        examples = [example(line, in_buckets) for line in lines]
    workspace = Workspace(f"{COMMON_FLAGS} {FLAGS[way]}")
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
