from __future__ import annotations

from benchmarks.stages.start import summary_of


def test_import_times_are_summed_up_by_package() -> None:
    said = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:   1000000 |    1000000 |   a.b\n"
        "import time:    500000 |    1500000 | a\n"
        "import time:   2000000 |    2000000 | c\n"
    )
    assert summary_of(said) == ["  2.000 s  c", "  1.500 s  a"]
