"""What sets the ways apart."""

from __future__ import annotations

import dataclasses

from benchmarks.learning.ways import as_upstream_ships, config_of
from src.features.feature_builder import FeatureBuilder
from src.rows.parsing import parse_messages
from tests.features.made import make_dictionaries


class TestWays:
    def test_differ_in_sparse_and_in_what_adaptive_yaml_says_alone(self) -> None:
        documented = config_of("documented")
        assert config_of("upstream") == documented
        assert config_of("sparse") == dataclasses.replace(documented, sparse=True)
        adaptive = config_of("adaptive")
        assert adaptive.admit_count > 0 == documented.admit_count
        assert (adaptive.dense_transform, documented.dense_transform) == ("bucket", "minmax")
        # Only then are the same rows the same batches.
        assert adaptive.batch_size == documented.batch_size

    def test_upstream_finds_no_value_and_counts_dense_columns_from_one(self) -> None:
        dictionaries = make_dictionaries(C1_a=39, C26_b=40)
        line = b"\t".join([b"1", *[b"2"] * 13, b"a", *[b""] * 24, b"b"])
        ids, _ = FeatureBuilder(dictionaries).build(parse_messages([line, line]))
        assert (ids[:, [13, 38]] == [39, 40]).all(), "the right features do find them"
        shipped = as_upstream_ships(ids, dictionaries)
        assert (shipped == [*range(1, 14), *range(13, 39)]).all()
        assert ids[0, 0] == 0, "the right ids stay as they are"
