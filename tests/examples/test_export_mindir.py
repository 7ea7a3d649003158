from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from examples.evaluation.mindir import network_of
from examples.export_mindir import main
from src.publishing.chain import Chain, write_current
from src.publishing.version_format import (
    Contents,
    Manifest,
    PublishingError,
    read_contents,
    write_version,
)
from tests.publishing.made import MODEL, VOCAB_SIZE, make_arrays, make_manifest

pytestmark = pytest.mark.usefixtures("own_logging")
ROWS = 7


def publish(folder: Path, cross_bits: int) -> list[Manifest]:
    """A full version and a delta that changes one row of the wide weights."""
    arrays = make_arrays(3)
    if cross_bits:
        random = np.random.default_rng(4)
        arrays["cross_weight"] = random.normal(size=1 << cross_bits).astype(np.float32)
    model = {**MODEL, "cross_bits": cross_bits, "deep_layer_act": "tanh"}
    full = write_version(folder, replace(make_manifest(10), model=model), Contents(arrays))
    row = (np.array([5], np.int32), np.array([[9.5]], np.float32))
    delta = write_version(
        folder,
        replace(make_manifest(20, full), model=model),
        Contents({"wide_bias": np.array([0.25], np.float32)}, {"wide_weight": row}),
    )
    write_current(folder, Chain([full.name, delta.name]))
    return [full, delta]


@pytest.mark.parametrize("cross_bits", [0, 8])
def test_mindspore_loads_the_file_and_scores_as_the_version(
    tmp_path: Path, cross_bits: int
) -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    full, _ = publish(tmp_path, cross_bits)
    random = np.random.default_rng(0)
    inputs = [
        random.integers(0, VOCAB_SIZE, (ROWS, 39)).astype(np.int32),
        random.random((ROWS, 39)).astype(np.float32),
        np.zeros((ROWS, 1), np.float32),
    ]
    if cross_bits:
        inputs.append(random.integers(0, 2**30, (ROWS, 39)).astype(np.int32))
    tensors = [ms.Tensor(array) for array in inputs]
    arrays = dict(read_contents(tmp_path, full).whole)
    logits = []
    for version in ("10", ""):  # the full one, and what is served: the delta
        output = tmp_path / f"model{version}.mindir"
        flags = [f"--publish_path={tmp_path}", f"--output={output}", f"--rows={ROWS}"]
        assert main([*flags, f"--version={version}"]) == 0
        loaded = ms.nn.GraphCell(ms.load(str(output)))
        logit, probability, _ = (found.asnumpy() for found in loaded(*tensors))
        wanted = network_of(full, arrays, ROWS)(*tensors)[0].asnumpy()
        np.testing.assert_allclose(logit, wanted, atol=1e-5)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-6)
        logits.append(logit)
        arrays["wide_bias"] = np.array([0.25], np.float32)
        arrays["wide_weight"] = arrays["wide_weight"].copy()
        arrays["wide_weight"][5] = 9.5
    assert not np.allclose(logits[0], logits[1])


def test_what_is_not_there_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [f"--publish_path={tmp_path}", f"--output={tmp_path / 'm.mindir'}"]
    assert main(flags) == 1
    assert f"nothing is published in {tmp_path}" in capfd.readouterr().err
    publish(tmp_path, 0)
    assert main([*flags, "--version=11"]) == 1
    assert "has no version 11" in capfd.readouterr().err
    for wrong in ("--rows=0", "--output=model.onnx"):
        with pytest.raises(SystemExit):
            main([*flags, wrong])


def test_arrays_of_another_model_are_refused(tmp_path: Path) -> None:
    full, _ = publish(tmp_path, 0)
    arrays = dict(read_contents(tmp_path, full).whole)
    del arrays["wide_bias"]
    with pytest.raises(PublishingError, match="lacks wide_bias"):
        network_of(full, arrays, ROWS)
    with pytest.raises(PublishingError, match="describes no model"):
        network_of(full, {**arrays, "wide_bias": np.zeros(2, np.float32)}, ROWS)
